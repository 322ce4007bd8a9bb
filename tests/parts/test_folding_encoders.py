"""Forgetting layers behind any layer of any of our encoders: put in, taken out, and by default folded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.models.encoders import ENCODERS, build_encoder
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.folding import find_folds, fold_factors, hidden_layers, run_order
from forgetmi.parts.edits.forgetting_layers import insert_forgetting, remove_forgetting
from forgetmi.training.modes import scoring
from forgetmi.training.seeds import scoped_seed
from tests.tiny import same_state, state_of

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]}
BERT = {
    "model_type": "bert", "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 12,
}  # fmt: skip
CONFIGS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"name": "mlp", "features": 6, "widths": [10, 8]}, (4, 6)),
    "conv1d": ({"name": "conv1d", "leads": 2, "widths": [6, 12], "kernel": 3}, (4, 2, 40)),
    "conv3d": ({"name": "conv3d", "widths": [6, 12]}, (4, 1, 8, 8, 8)),
    "small_resnet": ({"name": "small_resnet", "widths": [6, 12], "blocks": 2}, (4, 1, 16, 16)),
    "small_transformer": ({"name": "small_transformer", "vocab_size": 20, "dim": 16, "max_length": 9}, ()),
    "timm": ({"name": "timm", "model": "resnet10t", "in_chans": 1}, (4, 1, 32, 32)),
    "timm vit": ({"name": "timm", "model": "vit_tiny_patch16_224", "in_chans": 1, "options": VIT}, (4, 1, 32, 32)),
    "timm swin": ({"name": "timm", "model": "swin_tiny_patch4_window7_224", "options": SWIN}, (4, 3, 32, 32)),
    "transformers": ({"name": "transformers", "config": BERT}, ()),
    "monai": ({"name": "monai", "model": "resnet10"}, (3, 1, 8, 8, 8)),
}


class Headed(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, 3)

    def forward(self, inputs: Any) -> torch.Tensor:
        return self.head(self.encoder(inputs))


def ask(model: nn.Module, batch: Batch) -> ModelOutput:
    return ModelOutput(model(batch.inputs["x"]))


def case(name: str) -> tuple[nn.Module, list[Batch]]:
    config, shape = CONFIGS[name]
    with scoped_seed(0):
        model = Headed(build_encoder(config))
        for module in model.modules():  # as if trained: no branch that starts at zero, no attention that is flat
            for key, p in module.named_parameters(recurse=False):
                if p.ndim > 1:
                    nn.init.normal_(p, std=2.0 / p[0].numel() ** 0.5)
                elif key == "weight":
                    nn.init.uniform_(p, 0.5, 1.5)
        if shape:
            inputs: Any = torch.rand(shape)
            model.train()(inputs)  # statistics that are not 0 and 1
        else:
            inputs = {"input_ids": torch.randint(0, 20, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
            inputs["attention_mask"][0, 5:] = 0
    return model.eval(), [Batch({"x": inputs}, {}, None, torch.arange(4))]


def test_every_encoder_is_here():
    assert {name.split()[0] for name in CONFIGS} == set(ENCODERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_default_layers_fold(name):
    pytest.importorskip("monai") if name == "monai" else None
    model, batches = case(name)
    order = run_order(model, batches, ask)
    names = hidden_layers(model, order, 3)
    layers = insert_forgetting(model, names)
    folds, refused = find_folds(model, layers, order, batches, ask, torch.Generator().manual_seed(0))
    # BERT's pooler runs, and the encoder takes the mean of the states instead of what it says.
    assert refused.keys() <= {"encoder.backbone.pooler.dense"}
    assert len(folds) + len(refused) == len(names) and len(folds) >= 2
    with scoring(model):
        plain = ask(model, batches[0]).logits
        for layer in layers.values():
            layer.fade(torch.linspace(2.0, 20.0, layer.units), 1.0)
        faded = ask(model, batches[0]).logits
    fold_factors(model, folds, {fold.layer: layers[fold.layer] for fold in folds}, batches, ask)
    remove_forgetting(model)
    with scoring(model):
        folded = ask(model, batches[0]).logits
    assert (folded - faded).abs().max() < 1e-5 * faded.abs().max() + 1e-6
    assert (faded - plain).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_can_stand_behind_any_module_that_has_units(name):
    """All at once: without time nothing changes, with time each is reached and scales its own units."""
    pytest.importorskip("monai") if name == "monai" else None
    model, batches = case(name)
    before = state_of(model)
    order = run_order(model, batches, ask)
    with scoring(model):
        plain = ask(model, batches[0]).logits
    seen: dict[str, Any] = {}
    handles = [
        model.get_submodule(n).register_forward_hook(lambda m, a, out, n=n: seen.setdefault(n, out)) for n in order
    ]
    with scoring(model):
        ask(model, batches[0])
    for handle in handles:
        handle.remove()
    names = [n for n in order if isinstance(seen[n], torch.Tensor) and seen[n].ndim > 1 and seen[n].is_floating_point()]
    assert len(names) >= len(order) // 2
    layers = insert_forgetting(model, names)
    with scoring(model):
        assert torch.allclose(ask(model, batches[0]).logits, plain, atol=1e-5)
        assert all(layer.units is not None for layer in layers.values())
    for n, layer in layers.items():
        weight = getattr(model.get_submodule(n), "weight", None)
        if isinstance(model.get_submodule(n), nn.Linear):
            assert layer.units == weight.shape[0]
        layer.fade(torch.full((layer.units,), 1e30), 1.0)
    with scoring(model):
        assert torch.allclose(ask(model, batches[0]).logits, plain, atol=1e-5)
    remove_forgetting(model)
    assert same_state(before, state_of(model))
