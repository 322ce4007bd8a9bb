"""GPTQ and AWQ through their libraries, where these are installed; and what is said where they are not."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from forgetmi.attacks.quantisation import QUANTISERS, calibrated
from forgetmi.attacks.quantisation.calibrated import AWQ, GPTQ, linear_layers_only
from forgetmi.attacks.quantisation.grid import round_to_nearest
from forgetmi.attacks.quantisation.tensors import Selection, matrices
from forgetmi.errors import ConfigError, MissingDependencyError, ModelError
from forgetmi.training.seeds import scoped_seed

KINDS = {"gptq": ("llmcompressor", GPTQ), "awq": ("torchao", AWQ)}


def sequences(count: int = 6, length: int = 12) -> tuple[tuple[int, ...], ...]:
    ids = torch.randint(1, 32, (count, length), generator=torch.Generator().manual_seed(0))
    return tuple(tuple(row) for row in ids.tolist())


def gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    with scoped_seed(0):
        return GPT2LMHeadModel(config)


def llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    with scoped_seed(0):
        return LlamaForCausalLM(config)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_library_rounds_a_copy(name, build) -> None:
    package, kind = KINDS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    model = build().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    inputs, state = torch.tensor(sequences()), torch.get_rng_state()
    quantiser = kind(sequences(), group_size=16)
    made = quantiser.quantised(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training and model.training and type(made) is type(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with torch.inference_mode():
        whole, rounded = (m.eval()(inputs).logits for m in (model, made))
    changed = {key for key, tensor in made.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {matrix.name for matrix in matrices(model, Selection())}
    for old, new in zip(matrices(model, Selection()), matrices(made, Selection()), strict=True):
        width = old.rows.abs().reshape(len(old.rows), -1, 16).amax(dim=2).repeat_interleave(16, dim=1) / 7
        assert float((new.rows - old.rows).abs().median()) <= float(width.median())
        if name == "gptq":  # at most 16 levels in each group of a row, whatever their place
            assert all(len(group.unique()) <= 16 for group in new.rows.reshape(-1, 16))
    error = float((whole - rounded).square().mean())
    assert 0 < error < float(whole.var()) * 0.5


@pytest.mark.parametrize("build", [gpt2, llama])
def test_what_calibration_is_for(build) -> None:
    """A layer's output on the calibration data comes nearer to what it was than by plain rounding."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    model = build().eval()
    wanted = matrices(model, Selection())
    inputs = calibrated._inputs_of(model, wanted, sequences())
    made = matrices(AWQ(sequences(), group_size=16).quantised(model), Selection())
    for old, new, seen in zip(wanted, made, inputs, strict=True):
        plain = round_to_nearest(old.rows, 4, group_size=16, scale="symmetric").values
        errors = [float((seen @ (rows - old.rows).T).square().mean()) for rows in (new.rows, plain)]
        assert errors[0] <= errors[1] * 1.35  # the library's grid has one level more on the one side


@pytest.mark.parametrize("build", [gpt2, llama])
def test_linear_layers_say_what_conv1d_said(build) -> None:
    model = build().eval()
    inputs = torch.tensor(sequences())
    with torch.inference_mode():
        before = model(inputs).logits
    linear_layers_only(model)
    assert not any(type(module).__name__ == "Conv1D" for module in model.modules())
    with torch.inference_mode():
        assert torch.allclose(model(inputs).logits, before, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_package_is_named(name, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, KINDS[name][0], None)
    monkeypatch.setattr(calibrated, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=rf"forgetmi\[{name}\]"):
        QUANTISERS[name](sequences()).quantised(gpt2())


@pytest.mark.parametrize("name", KINDS)
def test_refusals(name, monkeypatch) -> None:
    kind = QUANTISERS[name]
    with pytest.raises(ConfigError, match="at least one sequence"):
        kind()
    with pytest.raises(ConfigError, match="embeddings and head"):
        kind(sequences(), selection=Selection(head=True))
    monkeypatch.setattr(calibrated, "find_spec", lambda package: object())
    with pytest.raises(ModelError, match="cannot be calibrated on tokens"):
        kind(sequences(), group_size=4).quantised(nn.Sequential(nn.Linear(4, 4)))
    if name == "awq":
        with pytest.raises(ModelError, match="no multiple of 24"):
            kind(sequences(), group_size=24).quantised(gpt2())
