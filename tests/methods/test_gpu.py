"""Every method on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from forgetmi.methods import METHODS
from tests.methods.test_contract import CASES, method_for
from tests.tiny import same_state, state_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("kind", sorted(CASES))
@pytest.mark.parametrize("name", list(METHODS))
def test_it_runs_there_and_leaves_the_original_alone(name, kind):
    case = CASES[kind]()
    case.model.to("cuda")
    method = method_for(name, case)
    before = state_of(case.model)
    state = torch.cuda.get_rng_state()
    job = case.job(seed=1, device="cuda")
    assert job.reference.model is case.model  # not copied where it already is
    unlearned = method.unlearn(job)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert same_state(state_of(case.model), before)
    after = state_of(unlearned)
    assert {tensor.device.type for tensor in after.values()} == {"cuda"}
    assert all(torch.isfinite(tensor).all() for tensor in after.values() if tensor.is_floating_point())


@pytest.mark.parametrize("kind", sorted(CASES))
def test_a_fit_without_chance_agrees_with_the_cpu(kind):
    case = CASES[kind]()
    method = method_for("fine_tune", case, fit={"epochs": 1, "batch_size": 8, "lr": 1e-3, "mode": "eval"})
    on_cpu = state_of(method.unlearn(case.job(seed=1)))
    case.model.to("cuda")
    on_gpu = state_of(method.unlearn(case.job(seed=1, device="cuda")))
    for key, tensor in on_cpu.items():
        assert torch.allclose(tensor, on_gpu[key].cpu(), atol=2e-3), key
