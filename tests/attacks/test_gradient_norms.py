"""Norms of single records' gradients: against one backward pass a record, and against published values."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.attacks import record_gradients
from forgetmi.attacks.gradient_norms import GradientOptions, gradient_norms
from forgetmi.attacks.record_gradients import mean_losses
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.models.lora import LoraOptions
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.attacks.published_lm import TOKENS, published_batches, published_model, scores
from tests.tiny import classifier_case, language_case, tiny_causal_lm

CPU = torch.device("cpu")
CASES = {"language": language_case(), "classifier": classifier_case()}
INDICES = list(range(14))


def brute(model, task, loader, indices, p=2.0, aggregate="global", only=None):
    """One backward pass a record, in eval mode, on a copy."""
    model = copy.deepcopy(model).eval().requires_grad_()
    found = []
    for index in indices:
        model.zero_grad()
        mean_losses(task, model, loader.batch([index]))[0].backward()
        named = model.named_parameters()
        chosen = [
            torch.zeros_like(w) if w.grad is None else w.grad for name, w in named if only is None or name in only
        ]
        if aggregate == "global":
            found.append(torch.cat([gradient.flatten() for gradient in chosen]).norm(p).item())
        else:
            found.append(np.mean([gradient.norm(p).item() for gradient in chosen]))
    return np.array(found)


def norms(case, options=None, size=5, indices=INDICES, model=None, **settings):
    batches = case.loader.batches(indices, size)
    return gradient_norms(model or case.model, case.task, batches, CPU, options, **settings)


@pytest.mark.parametrize("aggregate", ["global", "mean_of_tensors"])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("kind", CASES)
def test_agrees_with_one_backward_pass_a_record(kind, p, aggregate):
    case = CASES[kind]
    expected = brute(case.model, case.task, case.loader, INDICES, p, aggregate)
    np.testing.assert_allclose(norms(case, GradientOptions(p, aggregate)), expected, rtol=2e-5)


def test_a_language_model_is_done_a_batch_at_a_time(monkeypatch):
    """Its two embeddings share one weight, its positions are the same for all records, its head sees answers only."""
    asked = []
    real = record_gradients.norms_of_one
    monkeypatch.setattr(record_gradients, "norms_of_one", lambda *args: asked.append(1) or real(*args))
    for model in (CASES["language"].model, tiny_causal_lm().eval()):
        asked.clear()
        found = norms(CASES["language"], size=7, model=model)
        assert len(asked) == 2  # of 14 records in two batches
        expected = brute(model, CASES["language"].task, CASES["language"].loader, INDICES)
        np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "followed"), [("llama", {"packing": True}, True), ("gemma2", {}, True), ("mixtral", {}, False)]
)
def test_other_language_models(kind, settings, followed, monkeypatch):
    """Norms without a bias, embeddings that are scaled, several texts in a row, experts that see some tokens only."""
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}  # fmt: skip
    experts = {"num_local_experts": 4} if kind == "mixtral" else {}
    model = build_causal_lm({"config": {"model_type": kind, **sizes, **experts}, **settings}, 0).eval()
    case, asked, real = CASES["language"], [], record_gradients.norms_of_one
    monkeypatch.setattr(record_gradients, "norms_of_one", lambda *args: asked.append(1) or real(*args))
    expected = brute(model, case.task, case.loader, INDICES)
    np.testing.assert_allclose(norms(case, model=model, size=14), expected, rtol=2e-5)
    assert len(asked) == followed


def test_classifiers_whose_records_lack_nothing():
    case = CASES["classifier"]
    whole = [n for n in range(24) if n % 7 != 3 and n % 5 != 2]
    expected = brute(case.model, case.task, case.loader, whole)
    np.testing.assert_allclose(norms(case, indices=whole, size=len(whole)), expected, rtol=2e-5)


@pytest.mark.parametrize("kind", CASES)
def test_batches_order_and_memory_change_nothing(kind):
    case = CASES[kind]
    expected = norms(case)
    np.testing.assert_allclose(norms(case, size=14), expected, rtol=1e-5)
    np.testing.assert_allclose(norms(case, size=1), expected, rtol=1e-5)
    np.testing.assert_allclose(norms(case, max_values=1), expected, rtol=1e-5)
    order = np.random.default_rng(0).permutation(INDICES)
    np.testing.assert_allclose(norms(case, indices=order.tolist()), expected[order], rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", CASES)
def test_the_model_is_left_as_it_was(kind, training):
    """Published code leaves the last record's gradient there, which the next training step adds to its own."""
    case = CASES[kind]
    model = copy.deepcopy(case.model).train(training)
    task, batch = case.task, case.loader.batch(INDICES)
    frozen = next(model.parameters()).requires_grad_(False)
    task.loss(model, batch).backward()
    gradients = [None if w.grad is None else w.grad.clone() for w in model.parameters()]
    weights, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    state = torch.get_rng_state()
    first, second = norms(case, model=model), norms(case, model=model)
    np.testing.assert_array_equal(first, second)  # no dropout
    np.testing.assert_allclose(first, brute(model, task, case.loader, INDICES), rtol=2e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    assert not frozen.requires_grad
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    for weight, before in zip(model.parameters(), gradients, strict=True):
        assert (weight.grad is None) == (before is None)
        assert before is None or torch.equal(weight.grad, before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_an_adapter_is_merged_or_asked_alone():
    case = CASES["language"]
    adapted = tiny_causal_lm().adapted(LoraOptions(r=2), seed=3)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained
    merged = adapted.without_adapter(merge=True)
    expected = brute(merged, case.task, case.loader, INDICES)
    np.testing.assert_allclose(norms(case, model=adapted), expected, rtol=2e-5)
    alone = brute(adapted, case.task, case.loader, INDICES, only=trained)
    np.testing.assert_allclose(norms(case, GradientOptions(weights="trained"), model=adapted), alone, rtol=2e-5)
    assert not np.allclose(alone, expected, rtol=0.1)
    assert {name for name, weight in adapted.named_parameters() if weight.requires_grad} == trained
    frozen = copy.deepcopy(case.model).requires_grad_(False)
    np.testing.assert_allclose(norms(case, model=frozen), norms(case), rtol=1e-6)
    with pytest.raises(ModelError, match="weights: all"):
        norms(case, GradientOptions(weights="trained"), model=frozen)


class _Odd(nn.Module):
    """Positions [T] without the records' dimension: with as many tokens as records they look like records."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(32, 4), nn.Embedding(16, 4), nn.Linear(4, 32)

    def forward(self, input_ids, attention_mask):
        places = self.places(torch.arange(input_ids.shape[1]))
        return SimpleNamespace(logits=self.head(torch.tanh(self.words(input_ids) + places)))


def test_what_cannot_be_followed_is_done_record_by_record():
    case = CASES["language"]
    torch.manual_seed(0)
    model = _Odd()
    length = case.loader.batch(INDICES).inputs["tokens"]["input_ids"].shape[1]
    expected = brute(model, case.task, case.loader, INDICES)
    for size in (length, 5):
        np.testing.assert_allclose(norms(case, model=model, size=size), expected, rtol=2e-5)


def test_options_are_checked_at_once():
    with pytest.raises(ConfigError) as error:
        GradientOptions(p=0.5, aggregate="sum", weights="some")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize("role", ["target", "current"])
@pytest.mark.parametrize(("name", "p"), [("p1", 1.0), ("p2", 2.0), ("pinf", float("inf"))])
def test_published_norms(role, name, p):
    """Theirs are means over tensors, in train mode (these models have no dropout), of the tokens but the last."""
    options = GradientOptions(p, "mean_of_tensors")
    for part in TOKENS:
        batches = published_batches(part, 6)
        found = gradient_norms(published_model(role), CausalLMTask(), batches, CPU, options)
        np.testing.assert_allclose(found, scores(role, f"mia_gradnorm_{name}", part), rtol=2e-4)
