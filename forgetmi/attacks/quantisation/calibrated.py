"""Quantisers that look at what goes through a layer as well: GPTQ and AWQ, through libraries that are extras."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetmi.attacks.quantisation.tensors import Matrix, Selection, matrices, merged
from forgetmi.errors import ConfigError, MissingDependencyError, ModelError, unmet
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.weights import is_conv1d
from forgetmi.training.modes import scoring

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GPTQ:
    """GPTQ (Frantar et al. 2023, arXiv 2210.17323), 4 bits, by llmcompressor (extra ``gptq``).

    A row's weights are rounded one after the other, and what rounding one changes in the layer's output is made up for
    by those that are still to come. Symmetric, the library's ``W4A16``; for language models of transformers.

    Attributes:
        calibration: sequences of token ids that go through the model; an attacker takes any public text. Required.
        group_size: weights that share a bucket width.
        damping: share of the mean of the Hessian's diagonal that is added to it.
        selection: which weights; ``embeddings`` and ``head`` cannot be asked for.
    """

    calibration: Sequences = ()
    group_size: int = 128
    damping: float = 0.01
    selection: Selection = field(default_factory=Selection)

    name: ClassVar[str] = "gptq"

    def __post_init__(self) -> None:
        problems = _calibration_problems(self.calibration, self.group_size, self.selection)
        problems += unmet({f"damping must be > 0, not {self.damping}": self.damping > 0})
        if problems:
            raise ConfigError(problems)

    @property
    def label(self) -> str:
        """With its options."""
        return f"gptq, group of {self.group_size}"

    def quantised(self, model: nn.Module) -> nn.Module:
        """A rounded copy.

        Raises:
            MissingDependencyError: llmcompressor is not installed.
            ModelError: it is no language model of transformers, or the library cannot take it apart.
        """
        if find_spec("llmcompressor") is None:
            raise MissingDependencyError("GPTQ", "gptq")
        made = copy.deepcopy(merged(model))
        wanted = matrices(made, self.selection)
        lm = _language_model(copy.deepcopy(made))
        linear_layers_only(lm)
        prefix = "lm." if isinstance(made, CausalLM) else ""
        # One call for all layers: each is rounded on what the rounded ones before it give.
        layers = [matrix.name.removeprefix(prefix).rpartition(".")[0] for matrix in wanted]
        _compress(lm, layers, self.calibration, self.group_size, self.damping)
        for matrix, layer in zip(wanted, layers, strict=True):
            matrix.fill(_unpacked(lm.get_submodule(layer)))
        return made


@dataclass(frozen=True)
class AWQ:
    """Activation-aware weight quantisation (Lin et al. 2024, arXiv 2306.00978), 4 bits, by torchao (extra ``awq``).

    Inputs that are large are given finer buckets: W' = Q(W diag(s)) diag(s)^-1, s a power of the inputs' mean
    magnitude, chosen for each layer by the error of its output. The library divides a layer's input by s; here s is
    divided out of the weights, which is the same function.

    Attributes:
        calibration: sequences of token ids that go through the model; an attacker takes any public text. Required.
        group_size: weights that share a bucket width; must divide each layer's inputs.
        candidates: powers that are tried, from 0 (plain rounding) up.
        selection: which weights; ``embeddings`` and ``head`` cannot be asked for.
    """

    calibration: Sequences = ()
    group_size: int = 128
    candidates: int = 20
    selection: Selection = field(default_factory=Selection)

    name: ClassVar[str] = "awq"

    def __post_init__(self) -> None:
        problems = _calibration_problems(self.calibration, self.group_size, self.selection)
        problems += unmet({f"candidates must be >= 1, not {self.candidates}": self.candidates >= 1})
        if problems:
            raise ConfigError(problems)

    @property
    def label(self) -> str:
        """With its options."""
        return f"awq, group of {self.group_size}"

    def quantised(self, model: nn.Module) -> nn.Module:
        """A rounded copy.

        Raises:
            MissingDependencyError: torchao is not installed.
            ModelError: it is no language model, or a layer's inputs are no multiple of the group size.
        """
        if find_spec("torchao") is None:
            raise MissingDependencyError("AWQ", "awq")
        made = copy.deepcopy(merged(model))
        wanted = matrices(made, self.selection)
        for matrix in wanted:
            if matrix.rows.shape[1] % self.group_size:
                raise ModelError(
                    f"awq: {matrix.name} has {matrix.rows.shape[1]} inputs, no multiple of {self.group_size}",
                    fix="choose a group_size that divides the inputs of every layer",
                )
        inputs = _inputs_of(_language_model(made), wanted, self.calibration)
        for matrix, seen in zip(wanted, inputs, strict=True):
            matrix.fill(self._rounded(matrix.rows, seen))
        return made

    def _rounded(self, rows: Tensor, inputs: Tensor) -> Tensor:
        from torchao.prototype.awq.core import AWQObserver
        from torchao.quantization import IntxWeightOnlyConfig, PerGroup
        from torchao.quantization.transform_module import _QUANTIZE_CONFIG_HANDLER as HANDLERS
        from torchao.utils import DummyModule

        four_bits = torch.int4  # type: ignore[attr-defined]  # torch's stubs lack it
        settings = IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=PerGroup(self.group_size))
        observer = AWQObserver(rows.contiguous(), None, settings, self.candidates)
        with torch.no_grad():
            observer(inputs, inputs)  # it looks at inputs only
            scale = observer.calculate_qparams()
            packed = HANDLERS[type(settings)](DummyModule(rows * scale), settings).weight
            values: Tensor = packed.dequantize() / scale
        return values


def linear_layers_only(model: nn.Module) -> None:
    """Replace GPT-2's ``Conv1D`` layers by linear ones that say the same, in place."""
    for name, module in list(model.named_modules()):
        if is_conv1d(module):
            weight: Any = module.weight
            layer: Any = nn.Linear(weight.shape[0], weight.shape[1], device="meta", dtype=weight.dtype)
            layer.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=False)
            layer.bias = module.bias
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, layer.train(module.training))


def _calibration_problems(calibration: Sequences, group_size: int, selection: Selection) -> list[str]:
    return unmet(
        {
            "calibration: give at least one sequence of token ids": bool(calibration) and all(calibration),
            f"group_size must be >= 1, not {group_size}": group_size >= 1,
            "selection: embeddings and head cannot be rounded by this quantiser": not (
                selection.embeddings or selection.head
            ),
        }
    )


def _language_model(model: nn.Module) -> Any:
    lm: Any = model.lm if isinstance(model, CausalLM) else model
    if not hasattr(lm, "get_output_embeddings") or not hasattr(lm, "config"):
        raise ModelError(
            f"a {type(model).__name__} cannot be calibrated on tokens",
            expected="a language model of transformers",
            fix="use int8, int4, nf4 or fp4, which look at weights alone",
        )
    return lm


def _batches(lm: Any, calibration: Sequences) -> list[dict[str, Tensor]]:
    rows = [torch.tensor([row], device=lm.device) for row in calibration]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]


def _inputs_of(lm: Any, wanted: Sequence[Matrix], calibration: Sequences) -> list[Tensor]:
    """What goes into each layer [n, in], from the model in full precision."""
    owners = {id(weight): module for module in lm.modules() for weight in module.parameters(recurse=False)}
    seen: list[list[Tensor]] = [[] for _ in wanted]
    hooks = [
        owners[id(matrix.weight)].register_forward_pre_hook(
            lambda _, args, kept=kept: kept.append(args[0].detach().flatten(0, -2).clone())
        )
        for matrix, kept in zip(wanted, seen, strict=True)
    ]
    try:
        with scoring(lm):
            for batch in _batches(lm, calibration):
                lm(**batch, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(rows) for rows in seen]


def _compress(lm: Any, layers: Sequence[str], calibration: Sequences, group_size: int, damping: float) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from torch.utils.data import DataLoader

    args = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    groups = {"all": {"targets": list(layers), "weights": args}}
    data: Any = _batches(lm, calibration)
    # The library reads the model's settings from a folder, and draws from torch's global generator.
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        lm.config.save_pretrained(folder)
        lm.config._name_or_path = lm.name_or_path = folder
        try:
            oneshot(
                model=lm.eval(),
                processor=object(),  # of texts; the sequences are tokens already
                dataset=DataLoader(data, batch_size=None),
                recipe=[GPTQModifier(config_groups=groups, dampening_frac=damping)],
                pipeline="sequential",
            )
        except Exception as error:  # ValueError, RuntimeError, those of torch.fx, ...
            raise ModelError(f"llmcompressor cannot round this model: {type(error).__name__}: {error}") from error


def _unpacked(layer: Any) -> Tensor:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    with torch.no_grad():
        values: Tensor = fake_quantize(
            layer.weight, layer.weight_scale, layer.weight_zero_point, layer.quantization_scheme.weights
        )
    return values
