"""The adaptation gate: deterministic, per record, shared; equal to the formula worked out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.errors import ConfigError, MethodError
from forgetmi.parts.gate import AdaptationGate, GateWithHead
from forgetmi.parts.objectives.forget_mi import EPS, distance

DIMS = {"first": 5, "second": 3, "third": 2}


def make(seed=0, beta=1.0, dims=DIMS):
    return AdaptationGate(dims, generator=torch.Generator().manual_seed(seed), beta_init=beta)


def embeddings(rows=6, seed=1, dims=DIMS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, dim, generator=generator, dtype=dtype) for name, dim in dims.items()}


def by_hand(gate, unimodal):
    """Section 1.5 of the specification, one record at a time, in float64."""
    get = {name: tensor.double().numpy() for name, tensor in gate.state_dict().items()}
    beta = math.log1p(math.exp(get["raw_beta"]))
    rows = []
    for i in range(len(unimodal["first"])):
        x = unimodal["first"][i].double().numpy()
        y = np.concatenate([unimodal[name][i].double().numpy() for name in ("second", "third")])
        g = 1 / (1 + np.exp(-(get["weigh.weight"] @ np.concatenate([x, y]) + get["weigh.bias"])))
        h = get["shift.weight"] @ np.concatenate([x, g * y]) + get["shift.bias"]
        a = min(beta * np.linalg.norm(x) / np.linalg.norm(h), 1.0)
        s = x + a * h
        rows.append((s - s.mean()) / np.sqrt(s.var() + 1e-5))
    return np.stack(rows)


@pytest.mark.parametrize("beta", [0.01, 0.3, 5.0])  # shift bounded, in between, and unbounded
def test_the_formula(beta):
    gate, z = make(beta=beta), embeddings()
    np.testing.assert_allclose(gate(z).numpy(), by_hand(gate, z), atol=1e-5)


def test_row_11_identical_models_are_zero_apart():
    """The published code draws another gate for each model and leaves dropout on: there the distance is 13 to 22."""
    gate = make()
    gate.train()
    student, teacher = embeddings(), {name: z.clone() for name, z in embeddings().items()}
    assert distance(gate(student), gate(teacher)).item() == pytest.approx(math.sqrt(EPS), rel=1e-5)


def test_row_11_the_weights_come_from_the_generator_and_dropout_is_nowhere():
    state = torch.get_rng_state()
    one, same, other = make(3), make(3), make(4)
    z = embeddings()
    assert torch.equal(one(z), same(z)) and not torch.allclose(one(z), other(z))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(module, nn.Dropout) for module in one.modules())
    assert torch.equal(one.train()(z), one.eval()(z))


def test_row_13_and_item_5_a_record_does_not_depend_on_its_batch_mates():
    gate, z = make(beta=0.2), embeddings()
    whole = gate(z)
    scaled = {name: torch.cat([tensor[:3], 100 * tensor[3:]]) for name, tensor in z.items()}
    torch.testing.assert_close(gate(scaled)[:3], whole[:3])
    for i in range(6):
        torch.testing.assert_close(gate({name: tensor[i : i + 1] for name, tensor in z.items()})[0], whole[i])


@pytest.mark.parametrize("raw", [-50.0, -3.0, 0.0, 3.0])
def test_row_13_beta_is_positive_whatever_the_parameter(raw):
    gate = make()
    with torch.no_grad():
        gate.raw_beta.fill_(raw)
    assert gate.beta.item() > 0


@pytest.mark.parametrize("beta", [1e-4, 0.5, 1.0, 30.0, 200.0])
def test_beta_starts_where_it_was_asked_to(beta):
    assert make(beta=beta).beta.item() == pytest.approx(beta, rel=1e-3)


def test_item_5_as_beta_vanishes_the_gate_is_layer_norm_of_the_main_embedding():
    z = embeddings()
    plain = nn.functional.layer_norm(z["first"], (5,))
    gaps = [(make(beta=beta)(z) - plain).abs().max().item() for beta in (1e-1, 1e-2, 1e-3, 1e-5)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-4 < gaps[0]


def test_item_5_weights_ask_for_no_gradient_until_told_but_inputs_get_theirs():
    gate, z = make(), embeddings()
    z["second"].requires_grad_()
    gate(z).square().sum().backward()
    gate(z)[:, 0].sum().backward()
    assert z["second"].grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in gate.parameters())


def test_finite_differences():
    gate = make(beta=0.3).double()
    z = {name: tensor.requires_grad_() for name, tensor in embeddings(3, dtype=torch.float64).items()}
    assert torch.autograd.gradcheck(lambda *t: gate(dict(zip(DIMS, t, strict=True))), tuple(z.values()))


def test_a_zero_main_embedding_has_a_finite_gradient():
    gate = make()
    z = {name: torch.zeros(2, dim, requires_grad=True) for name, dim in DIMS.items()}
    gate(z)[:, 0].sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in z.values())


def test_the_order_of_the_inputs_is_of_no_consequence():
    gate, z = make(dims={"a": 3, "b": 3}), embeddings(dims={"a": 3, "b": 3})
    assert torch.equal(gate(z), gate({"b": z["b"], "a": z["a"]}))


def test_a_missing_modality_counts_as_zeros_and_nothing_leaks_from_its_row():
    gate, z = make(beta=0.4), embeddings()
    mask = torch.tensor([True, True, False, False, True, False])
    with_nan = {**z, "second": torch.where(mask[:, None], z["second"], math.nan)}
    with_zero = {**z, "second": torch.where(mask[:, None], z["second"], 0.0)}
    assert torch.equal(gate(with_nan, {"second": mask}), gate(with_zero))
    everything = {name: torch.ones(6, dtype=torch.bool) for name in DIMS}
    assert torch.equal(gate(z, everything), gate(z))


def test_without_its_main_modality_a_record_still_shows_the_others():
    gate, z = make(beta=0.4), embeddings(4)
    absent = {"first": torch.tensor([False, False, True, True])}
    joint = gate({**z, "first": torch.where(absent["first"][:, None], z["first"], math.nan)}, absent)
    assert torch.isfinite(joint).all() and not torch.allclose(joint[0], joint[1])
    torch.testing.assert_close(joint[2:], gate(z)[2:])


def test_a_head_can_train_the_gate_once():
    gate, z = make(), embeddings(32)
    labels = (z["second"][:, 0] > 0).long()
    model = GateWithHead(gate, 2, generator=torch.Generator().manual_seed(1))
    gate.requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses, before = [], gate.shift.weight.detach().clone()
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(z), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert model(z).shape == (32, 2) and losses[-1] < 0.5 * losses[0]
    assert not torch.equal(gate.shift.weight, before) and gate.beta.item() > 0


def test_wrong_dimensions_are_refused():
    with pytest.raises(ConfigError) as caught:
        make(beta=0.0, dims={"only": 3})
    assert len(caught.value.problems) == 2
    with pytest.raises(MethodError, match="was given"):
        make()({"first": torch.zeros(2, 5)})
