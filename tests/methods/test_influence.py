"""The influence step: Newton's where that is known, never zero, and its inverse against a dense one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.forget_request import ForgetRequest
from forgetmi.methods import UnlearningJob, build_method
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.influence import inverse_curvature_product
from forgetmi.requests import resolve
from forgetmi.training.reference import Reference
from forgetmi.training.trainer import Trainer
from tests.tiny import classifier_case, language_case, same_state, state_of
from tests.training.toys import TASK, vector_loader

N, PENALTY = 60, 0.02


class Softmax(nn.Module):
    """Logits W x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: Batch) -> ModelOutput:
        return ModelOutput(self.layer(batch.inputs["x"].double()))


def minimum(loader, indices) -> nn.Module:
    """Of the mean loss + PENALTY / 2 * the squared norm, which is strictly convex: to machine precision."""
    model, batch = Softmax().double(), loader.batch(indices)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = TASK.loss(model, batch) + PENALTY / 2 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.eval()


def test_on_penalised_softmax_regression_it_is_leave_out_retraining_to_first_order():
    """Halving the forget set divides the error by about four."""
    loader = vector_loader(N)
    everything = minimum(loader, range(N))
    errors, distances = [], []
    for n_forget in (8, 4):
        ids = [f"PATIENT-{i:02d}" for i in range(n_forget)]
        partition = resolve(loader.dataset, ForgetRequest.of("patient", ids))
        trainer = Trainer(device="cpu", progress=False)
        job = UnlearningJob(
            everything, partition, TASK, loader, trainer, 0, Reference(everything, TASK, trainer.device)
        )
        options = {"damping": PENALTY, "targets": "model", "samples": N}
        stepped = build_method("influence", options).unlearn(job)
        retrained = minimum(loader, partition.retain)
        flat = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (everything, stepped, retrained)]
        distances.append(float((flat[0] - flat[2]).norm()))
        errors.append(float((flat[1] - flat[2]).norm()))
    assert errors[0] < 0.15 * distances[0] and errors[1] < 0.1 * distances[1]
    assert errors[1] < 0.45 * errors[0]


def test_the_inverse_is_that_of_the_dense_matrix():
    draw = torch.Generator().manual_seed(0)
    rows, vector = torch.randn(7, 12, generator=draw), torch.randn(12, generator=draw)
    dense = 0.3 * torch.eye(12) + rows.T @ rows / 7
    assert torch.allclose(inverse_curvature_product(rows, vector, 7, 0.3), torch.linalg.solve(dense, vector), atol=1e-4)
    far = inverse_curvature_product(rows, vector, 7, 1e6)
    assert torch.allclose(far * 1e6, vector, atol=1e-4)


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_no_scale_is_no_step_and_a_step_is_never_zero(make):
    """Sums over the forget set twice would cancel."""
    case = make()
    still = build_method("influence", {"scale": 0.0}).unlearn(case.job())
    assert same_state(state_of(case.model), state_of(still))
    moved = build_method("influence").unlearn(case.job())
    distance = (
        sum(float((p - case.model.get_parameter(n)).detach().square().sum()) for n, p in moved.named_parameters())
        ** 0.5
    )
    assert distance > 1e-3
    other = make()
    changed = dict.fromkeys(case.partition.retain[:9], case.dataset[case.partition.forget[0]])
    other.loader = case.loader.restricted_to(changed)  # other retain records, another step
    again = build_method("influence").unlearn(other.job())
    assert not same_state(state_of(moved), state_of(again))


def test_it_raises_the_loss_of_the_forget_set():
    case = classifier_case()
    batch = case.loader.batch(case.partition.forget)
    with torch.no_grad():
        before = case.task.loss(case.model, batch)
        after = case.task.loss(build_method("influence", {"scale": 0.1}).unlearn(case.job()), batch)
    assert after > before


def test_too_large_a_job_is_refused_with_what_to_do():
    with pytest.raises(MethodError, match=r"(?s)26 gradients of .* weights.*lower samples"):
        build_method("influence", {"memory_gb": 1e-5}).unlearn(classifier_case().job())
    with pytest.raises(ConfigError, match=r"(?s)scale.*damping.*samples.*memory_gb.*batch_size"):
        build_method("influence", {"scale": -1, "damping": 0, "samples": 0, "memory_gb": 0, "batch_size": 0})
