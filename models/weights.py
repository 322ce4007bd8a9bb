"""Weights in files: read without running anything that a file may hold, and named by a digest."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from forgetmi.errors import ModelError


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a pickle, read with ``weights_only=True``. On the CPU.

    Raises:
        ModelError: the file is missing, truncated or damaged, or a pickle that holds more than tensors.
    """
    if not file.is_file():
        raise ModelError(f"there is no file {file.name}", where=str(file))
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file.name} holds more than tensors, or is damaged: loading it could run code, so it is not read",
            where=str(file),
            expected="a state dict: names and tensors only",
            fix="if you trust its source, convert it once where nothing is at stake: "
            "model = torch.load(FILE, weights_only=False); "
            "torch.save({k: v for k, v in model.state_dict().items()}, FILE)",
        ) from error
    except Exception as error:  # torch: RuntimeError, EOFError, ...; safetensors: its own
        raise ModelError(
            f"{file.name} cannot be read: {type(error).__name__}: {error}",
            where=str(file),
            expected="a complete file of weights",
            fix="copy the file again and compare its size with the original's",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            f"{file.name} is not a state dict",
            where=str(file),
            expected="names to tensors",
            fix="a training checkpoint: save its inner state dict to a file of its own",
        )
    return dict(state)


def check_keys(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Raise :class:`ModelError` with every missing key, unexpected key and wrong shape.

    Keys of one storage (tied weights) may stand in for each other.
    """
    own = model.state_dict(keep_vars=True)
    stored = {tensor.data_ptr() for name, tensor in own.items() if name in state and tensor.numel()}
    missing = [n for n, tensor in own.items() if n not in state and tensor.data_ptr() not in stored]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}: {list(tensor.shape)}, the model has {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = [
        f"{len(found)} {what}: {', '.join(sorted(found))}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise ModelError(f"the weights in {file.name} are not this model's: {'; '.join(problems)}", where=str(file))


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's parameters and buffers, whatever the device."""
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """The same over tensors by name, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2, whose weight is [in, out]; found by name, to load no transformers."""
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__) and hasattr(module, "nf")
