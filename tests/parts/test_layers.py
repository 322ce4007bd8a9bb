"""Which layers a model has, and in which order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.layers import Layer, layers
from tests.tiny import classifier_case, language_case
from tests.training.toys import TASK, Net, vector_loader

CPU = torch.device("cpu")


def of(model, task=TASK):
    return layers(model, task, vector_loader(), range(4), device=CPU)


def test_last_first_with_what_stands_behind():
    found = of(Net(batchnorm=True))
    # Net defines first, last, norm: definition order, as published, whatever the order of use.
    assert found == [
        Layer(("last.weight", "last.bias"), ("norm.weight", "norm.bias")),
        Layer(("first.weight", "first.bias"), ()),
    ]


def test_what_the_loss_does_not_reach_is_no_layer():
    model = Net()
    model.other_head = nn.Linear(6, 3)
    assert [layer.weights[0] for layer in of(model)] == ["last.weight", "first.weight"]
    model.last.requires_grad_(False)
    assert [layer.weights[0] for layer in of(model)] == ["first.weight"]


def test_every_reached_parameter_stands_once():
    for case in (classifier_case(), classifier_case(heads="fused"), language_case()):
        found = layers(case.model, case.task, case.loader, case.partition.retain, device=CPU)
        names = [name for layer in found for name in (*layer.weights, *layer.along)]
        assert len(names) == len(set(names))
        loss = sum(case.task.loss(case.model, case.loader.batch([i])) for i in case.partition.retain)
        loss.backward()
        reached = {name for name, p in case.model.named_parameters() if p.grad is not None}
        case.model.zero_grad()
        assert set(names) == reached
    assert found[0].weights == ("transformer.wte.weight",)  # the head and the embeddings are one weight


def test_a_fused_model_ends_with_its_head():
    case = classifier_case()  # unimodal heads are defined last, and the fused loss does not reach them
    found = layers(case.model, case.task, case.loader, case.partition.retain, device=CPU)
    assert found[0].weights == ("head.weight", "head.bias")


def test_a_model_without_layers_is_refused():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, batch: Batch) -> ModelOutput:
            return ModelOutput(batch.inputs["x"][:, :3] + self.shift)

    with pytest.raises(MethodError, match="no linear, convolution or attention layer"):
        of(Shift())
    with pytest.raises(MethodError, match="no parameter"):
        of(Shift().requires_grad_(False))
