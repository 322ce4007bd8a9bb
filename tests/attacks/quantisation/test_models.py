"""Rounded copies of models: which weights, in which layout, and nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from forgetmi.attacks.quantisation import QUANTISERS
from forgetmi.attacks.quantisation.grid import FP4, NF4, round_to_nearest, round_to_table
from forgetmi.attacks.quantisation.quantisers import Int4, Int8
from forgetmi.attacks.quantisation.tensors import Selection, matrices, merged
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.lora import LoraOptions
from tests.tiny import tiny_causal_lm, tiny_classifier, tiny_gpt2

WEIGHT_ONLY = ("int8", "int4", "nf4", "fp4")


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", WEIGHT_ONLY)
@pytest.mark.parametrize("build", [tiny_gpt2, tiny_classifier, tiny_causal_lm])
def test_only_selected_weights_of_the_copy_change(name, build) -> None:
    model = build()
    model.train()
    next(model.children()).eval()
    flags, before = [module.training for module in model.modules()], state(model)
    quantiser = QUANTISERS[name]()
    made = quantiser.quantised(model)
    assert [module.training for module in model.modules()] == flags
    assert [module.training for module in made.modules()] == flags
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    chosen = {matrix.name for matrix in matrices(model, Selection())}
    changed = {key for key, tensor in made.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == chosen and not any("norm" in key or "bias" in key or "ln_" in key for key in changed)
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert not own & {tensor.data_ptr() for tensor in made.parameters()}


def test_the_layers_of_a_language_model_and_of_a_classifier() -> None:
    names = {matrix.name for matrix in matrices(tiny_gpt2(), Selection())}
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == {f"transformer.h.{n}.{layer}.weight" for n in (0, 1) for layer in layers}
    model = tiny_classifier()
    names = {matrix.name for matrix in matrices(model, Selection())}
    assert not any(name.startswith(("head", "unimodal_heads")) for name in names)
    assert {"projections.film.weight", "projections.note.weight"} <= names
    assert any("in_proj_weight" in name for name in names)  # attention, whose matrix is no layer of its own
    assert any(model.get_parameter(name).ndim == 4 for name in names)  # convolutions
    with_head = {matrix.name for matrix in matrices(model, Selection(head=True))}
    assert {"head.weight", "unimodal_heads.note.weight"} <= with_head - names
    fewer = {matrix.name for matrix in matrices(model, Selection(exclude=("encoders.film.*",)))}
    assert fewer == {name for name in names if not name.startswith("encoders.film.")}


def test_gpt2_layers_are_rounded_by_output_channel() -> None:
    """Their weight is [in, out]: a channel is a column, and blocks run along the inputs."""
    model = tiny_gpt2()
    weight = model.transformer.h[0].attn.c_attn.weight.detach()
    assert weight.shape == (16, 48)
    made = {name: QUANTISERS[name]().quantised(model).transformer.h[0].attn.c_attn.weight for name in WEIGHT_ONLY}
    assert torch.equal(made["int8"], round_to_nearest(weight.T, 8, granularity="channel").values.T)
    delta = weight.abs().amax(dim=0) / 127
    assert torch.allclose(made["int8"], torch.round(weight / delta) * delta)
    for name, table in (("nf4", NF4), ("fp4", FP4)):
        assert torch.equal(made[name], round_to_table(weight.T.contiguous(), table).values.T)


def test_a_linear_layer_and_the_same_conv1d_give_the_same() -> None:
    from transformers.pytorch_utils import Conv1D

    one, other = nn.Linear(12, 20), Conv1D(20, 12)
    with torch.no_grad():
        other.weight.copy_(one.weight.T)
    for name in WEIGHT_ONLY:
        rounded = [QUANTISERS[name]().quantised(nn.Sequential(layer))[0].weight for layer in (one, other)]
        assert torch.equal(rounded[0], rounded[1].T)


def test_convolutions_have_their_channels_too() -> None:
    plain, turned = nn.Conv2d(3, 5, 2), nn.ConvTranspose2d(5, 3, 2)
    made = Int8().quantised(nn.Sequential(plain, turned))
    for before, after, axes in ((plain, made[0], (1, 2, 3)), (turned, made[1], (0, 2, 3))):
        delta = before.weight.detach().abs().amax(dim=axes, keepdim=True) / 127
        assert torch.allclose(after.weight, torch.round(before.weight / delta) * delta)


@pytest.mark.parametrize(("selection", "moves"), [({}, False), ({"embeddings": True}, True), ({"head": True}, True)])
def test_tied_weights_stay_tied(selection, moves) -> None:
    model = tiny_gpt2()
    made = Int4(selection=Selection(**selection)).quantised(model)
    assert made.lm_head.weight is made.transformer.wte.weight
    assert torch.equal(made.lm_head.weight, model.lm_head.weight) is not moves
    untied = GPT2LMHeadModel(
        GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1, tie_word_embeddings=False)
    )
    made = Int4(selection=Selection(head=True)).quantised(untied)
    assert torch.equal(made.transformer.wte.weight, untied.transformer.wte.weight)
    assert not torch.equal(made.lm_head.weight, untied.lm_head.weight)


def test_an_adapter_is_merged_before_rounding() -> None:
    model = tiny_causal_lm().adapted(LoraOptions(r=2), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    before = state(model)
    made = Int4().quantised(model)
    assert model.has_adapter and not made.has_adapter
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    plain = merged(model)
    base = model.without_adapter()
    for old, new, unmerged in zip(*(matrices(m, Selection()) for m in (plain, made, base)), strict=True):
        assert torch.equal(new.rows, round_to_nearest(old.rows, 4).values)
        assert not torch.equal(old.rows, unmerged.rows)
    assert not {p.data_ptr() for p in made.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_half_precision_is_kept() -> None:
    model = tiny_gpt2().to(torch.bfloat16)
    for name in WEIGHT_ONLY:
        made = QUANTISERS[name]().quantised(model)
        assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
        logits = made(torch.tensor([[1, 2, 3]])).logits
        assert bool(logits.isfinite().all())


def test_refusals() -> None:
    model = tiny_gpt2()
    with pytest.raises(ModelError, match=r"transformer\.h\.0\.attn"):
        Int4(selection=Selection(exclude=("transformer.h.0.atn",))).quantised(model)
    with pytest.raises(ModelError, match="none of the model's weights"):
        Int4().quantised(nn.LayerNorm(3))
    with pytest.raises(ModelError, match="none of the model's weights"):
        Int4().quantised(nn.ModuleDict({"head": nn.Linear(3, 3)}))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        Int4().quantised(broken)
    whole = nn.Sequential(nn.Linear(3, 3))
    whole.register_parameter("packed", nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    with pytest.raises(ModelError, match="integers already"):
        Int4().quantised(whole)
    with pytest.raises(ConfigError, match="group_size"):
        Int4(group_size=0)
    with pytest.raises(ConfigError, match="block must be"):
        QUANTISERS["nf4"](block=48)


def test_labels_say_the_options() -> None:
    assert Int4().label == "int4, group of 128"
    assert Int4("tensor", scale="paper").label == "int4, tensor, paper's scale"
    assert Int8().label == "int8, channel"
    assert QUANTISERS["nf4"]().label == "nf4"
    assert QUANTISERS["fp4"](block=128, double=True).label == "fp4, block of 128, double"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_rounds_on_a_gpu_as_we_do(name) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny_gpt2()
    there = QUANTISERS[name]().quantised(copy.deepcopy(model).cuda()).state_dict()
    here = QUANTISERS[name]().quantised(model).state_dict()
    assert all(torch.equal(there[key].cpu(), tensor) for key, tensor in here.items())
