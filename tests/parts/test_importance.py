"""Gradients of single records in one pass: the same as one by one, whatever shares the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forgetmi.batch import Batch
from forgetmi.errors import MethodError
from forgetmi.models.output import ModelOutput
from forgetmi.parts.edits.importance import gradient_sum, per_sample_gradients, squared_gradients, trainable
from forgetmi.tasks.classification import ClassificationTask
from tests.tiny import classifier_case, language_case, same_state, state_of

CPU = torch.device("cpu")


def close(found, expected, tolerance=2e-6):
    """To a few roundings of the largest entry."""
    return bool((found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))


TASK = ClassificationTask(3)


def one_by_one(case, index):
    """{name: gradient} by autograd, for a batch of one."""
    model = case.model.eval()
    loss = case.task.loss(model, case.loader.batch([index]))
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


@pytest.fixture(params=["fused", "per_modality", "language"])
def case(request):
    if request.param == "language":
        return language_case()
    made = classifier_case()
    made.task = ClassificationTask(3, loss_kind=request.param)
    return made


def test_they_agree_with_the_loop(case):
    """Records with missing modalities and texts of several lengths among them."""
    indices = list(case.partition.retain[:12])
    gradients, weights = per_sample_gradients(case.model, case.task, case.loader.batch(indices))
    assert weights.tolist() == [[1.0]] * 12
    for row, index in enumerate(indices):
        for name, expected in one_by_one(case, index).items():
            assert close(gradients[name][row, 0], expected), (index, name)
    assert max(g.abs().max() for g in gradients.values()) > 1e-3


def test_their_mean_square_is_the_importance_whatever_the_batch_size_and_chunk(case):
    indices = list(case.partition.retain[:7])
    squares: dict[str, torch.Tensor] = {}
    for index in indices:
        for name, gradient in one_by_one(case, index).items():
            squares[name] = squares.get(name, 0.0) + gradient**2 / len(indices)
    before, mode = state_of(case.model), case.model.training
    for batch_size in (1, 3, 7):
        found = squared_gradients(case.model, case.task, case.loader, indices, batch_size=batch_size, device=CPU)
        for name, expected in squares.items():
            assert close(found[name], expected), name
    assert same_state(before, state_of(case.model)) and case.model.training == mode
    assert all(p.grad is None for p in case.model.parameters())
    batch = case.loader.batch(indices)
    whole, _ = per_sample_gradients(case.model, case.task, batch)
    pieces, _ = per_sample_gradients(case.model, case.task, batch, chunk=2)
    assert all(close(whole[name], pieces[name]) for name in whole)


def test_batchwise_importance_is_the_square_of_the_mean_and_depends_on_the_batch(case):
    indices = list(case.partition.retain[:4])

    def importance(batch_size):
        return squared_gradients(
            case.model, case.task, case.loader, indices, batch_size=batch_size, device=CPU, gradients="batch"
        )

    model = case.model.eval()
    parameters = dict(model.named_parameters())
    losses = [case.task.loss(model, case.loader.batch(indices[i : i + 2])) for i in (0, 2)]
    halves = [torch.autograd.grad(x, parameters.values(), materialize_grads=True, allow_unused=True) for x in losses]
    for k, name in enumerate(parameters):
        expected = (halves[0][k] ** 2 + halves[1][k] ** 2) / 2
        assert close(importance(2)[name], expected)
    single = squared_gradients(case.model, case.task, case.loader, indices, batch_size=2, device=CPU)
    alone = importance(1)
    assert all(close(alone[name], single[name]) for name in alone)
    assert any(not torch.allclose(importance(4)[name], single[name], rtol=1e-2) for name in single)


def test_the_sum_of_gradients_weighs_records_not_batches():
    case = classifier_case()
    indices = list(case.partition.retain[:7])
    expected: dict[str, torch.Tensor] = {}
    for index in indices:
        for name, gradient in one_by_one(case, index).items():
            expected[name] = expected.get(name, 0.0) + gradient
    for batch_size in (3, 7):  # the last batch of three holds one record
        found = gradient_sum(case.model, case.task, case.loader, indices, batch_size=batch_size, device=CPU)
        assert all(close(found[name], expected[name]) for name in expected)


class Softmax(nn.Module):
    """Logits W x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: Batch) -> ModelOutput:
        return ModelOutput(self.layer(batch.inputs["x"]))


def vectors(n: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(3)
    x, labels = torch.randn(n, 4, generator=draw), torch.randint(0, 3, (n,), generator=draw)
    return Batch({"x": x}, {"x": torch.ones(n, dtype=torch.bool)}, labels, torch.arange(n))


def test_the_models_own_targets_give_the_analytic_fisher_of_softmax_regression():
    """F(b_k) = E[p_k (1 - p_k)], F(W_kj) = E[p_k (1 - p_k) x_j^2]; the labels play no part."""
    model, batch = Softmax(), vectors()
    gradients, chances = per_sample_gradients(model, TASK, batch, targets="model")
    assert torch.allclose(chances.sum(dim=1), torch.ones(6))
    fisher = {n: torch.einsum("bk...,bk->...", g.square(), chances) / 6 for n, g in gradients.items()}
    p = model(batch).logits.softmax(dim=1).detach()
    variance = p * (1 - p)
    assert torch.allclose(fisher["layer.bias"], variance.mean(dim=0), atol=1e-6)
    expected = torch.einsum("bk,bj->kj", variance, batch.inputs["x"] ** 2) / 6
    assert torch.allclose(fisher["layer.weight"], expected, atol=1e-6)


def test_token_ids_that_look_like_masks_are_not_shared_between_records():
    """Ids 0 and 1 only, in a group of records, while another record of the batch has larger ones."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(6, 4), nn.Linear(4, 3)

        def forward(self, batch: Batch) -> ModelOutput:
            ids, mask = batch.inputs["words"]["ids"], batch.inputs["words"]["mask"]
            return ModelOutput(self.layer((self.table(ids) * mask[..., None]).sum(dim=1)))

    ids = torch.tensor([[0, 1], [1, 1], [5, 4], [1, 0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])
    batch = Batch({"words": {"ids": ids, "mask": mask}}, {}, torch.tensor([0, 1, 2, 1]), torch.arange(4))
    model = Bag()
    together, _ = per_sample_gradients(model, TASK, batch)
    for row in range(4):
        alone, _ = per_sample_gradients(model, TASK, batch.rows([row]))
        assert all(torch.allclose(together[n][row], alone[n][0], atol=1e-6) for n in alone)


def test_frozen_weights_have_no_importance_and_a_frozen_model_is_refused():
    model = Softmax()
    model.layer.weight.requires_grad_(False)
    assert list(trainable(model)) == ["layer.bias"]
    model.requires_grad_(False)
    with pytest.raises(MethodError, match="no parameter"):
        trainable(model)


def test_a_model_that_cannot_be_vectorised_is_refused_with_a_way_out():
    class Looks(Softmax):
        def forward(self, batch: Batch) -> ModelOutput:
            x = batch.inputs["x"]
            return ModelOutput(self.layer(x if float(x.sum()) > 0 else -x))

    with pytest.raises(MethodError, match="gradients: batch"):
        per_sample_gradients(Looks(), TASK, vectors())


def test_sums_of_a_bfloat16_model_are_kept_in_float32():
    case = language_case()
    model, indices = case.model.bfloat16(), list(case.partition.retain[:6])
    summed = gradient_sum(model, case.task, case.loader, indices, batch_size=1, device=CPU)
    singles = [gradient_sum(model, case.task, case.loader, [i], batch_size=1, device=CPU) for i in indices]
    for name, found in summed.items():
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.stack([single[name] for single in singles]).cumsum(dim=0)[-1])
    assert any(not torch.equal(found, found.bfloat16().float()) for found in summed.values())
