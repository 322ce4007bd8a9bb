"""The frozen original of a language model: adapter off, kept likelihoods and a frozen copy say the same; none is held
twice."""

from __future__ import annotations

import copy

import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.errors import MethodError, ModelError
from forgetmi.methods import build_method
from forgetmi.methods.base import check_job
from forgetmi.models.lora import LoraOptions
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.reference import Reference
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of, tiny_causal_lm

CPU, TASK = torch.device("cpu"), CausalLMTask()


@pytest.fixture
def loader() -> Loader:
    return language_case().loader


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return model


def test_the_three_kinds_of_reference_agree(loader):
    """A frozen copy, the trained model with its adapter off, and likelihoods that were kept."""
    original = tiny_causal_lm().eval()
    frozen = Reference(copy.deepcopy(original), TASK, CPU)
    trained = moved(original.adapted(LoraOptions(r=2, targets=("c_attn", "mlp.c_fc")), seed=1)).train()
    off = Reference(trained.without_adapter(), TASK, CPU)
    kept = Reference(original, TASK, CPU)
    kept.keep_tokens(loader.batches(range(12), 5))
    batch = loader.batch([7, 2, 11, 2])
    expected, mask = frozen.token_nll(batch)
    original.requires_grad_(False).zero_grad()
    for reference in (off, kept):
        found, there = reference.token_nll(batch)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(there, mask)
        torch.testing.assert_close(reference.nll(batch), expected.sum(dim=1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(reference.output(batch).logits, frozen.output(batch).logits, rtol=1e-6, atol=1e-6)
    assert (TASK.token_nll(trained, batch)[0] - expected).abs().max() > 1e-2


def test_an_adapter_is_trained_without_a_second_copy_of_the_weights():
    case = adapter_case()
    job = case.job()
    before = state_of(case.model)
    places = {p.data_ptr() for p in case.model.parameters()}
    assert job.reference.model is case.model
    unlearned = build_method("npo", {"fit": {"epochs": 2, "lr": 1e-2, "batch_size": 4}}).unlearn(job)
    own = {name: p for name, p in unlearned.named_parameters() if p.data_ptr() not in places}
    assert own and all("lora_" in name for name in own)
    assert sum(p.numel() for p in own.values()) < 0.3 * sum(p.numel() for p in case.model.parameters())
    assert same_state(before, state_of(case.model))
    assert [e["kind"] for e in job.trainer.log.events if e["event"] == "copy"] == [
        "a new adapter; all other weights are the original's own"
    ]
    # an original that was trained with an adapter goes on from there, and its own adapter is the reference's
    second = adapter_case()
    second.model, second.lora = unlearned.eval(), None
    before, job = state_of(unlearned), second.job()
    again = build_method("gradient_ascent", {"fit": {"epochs": 1, "lr": 1e-2}}).unlearn(job)
    assert same_state(before, state_of(unlearned)) and not same_state(before, state_of(again))
    shared = {p.data_ptr() for p in unlearned.parameters()} & {p.data_ptr() for p in again.parameters()}
    assert len(shared) == len(places)


def test_of_each_record_the_answers_tokens_are_kept_once(loader):
    model, asked = tiny_causal_lm().train(), []
    model.lm.base_model.register_forward_pre_hook(lambda m, a, k: asked.append(len(k["input_ids"])), with_kwargs=True)
    reference = Reference(model, TASK, CPU)
    for indices in ([3, 1, 3], [1, 4], [4, 3]):
        batch = loader.batch(indices)
        values, mask = reference.token_nll(batch)
        expected, there = TASK.token_nll(copy.deepcopy(model).eval(), batch)
        torch.testing.assert_close(values, expected.detach())
        assert torch.equal(mask, there) and not values.requires_grad
        (TASK.token_nll(model, batch)[0] * values).sum().backward()  # it may enter a graph
    assert sum(len(kept) for kept in reference._tokens.values()) == sum(
        len(loader.dataset[i].modalities["tokens"]["ids"]) - 2 for i in (1, 3, 4)
    )
    reference_rows = [n for n in asked if n]
    assert reference_rows[0] == 2, "a record that stands twice in a batch goes through once"


def test_another_answer_to_the_same_question_is_another_record(loader):
    from dataclasses import replace

    reference = Reference(tiny_causal_lm().eval(), TASK, CPU)
    batch = loader.batch([2, 3])
    tokens = dict(batch.inputs["tokens"])
    tokens["labels"] = torch.where(torch.arange(tokens["labels"].shape[1]) < 4, -100, tokens["labels"])
    changed = replace(batch, inputs={"tokens": tokens}, variants=("no", "no"))
    assert not torch.equal(reference.nll(batch), reference.nll(changed))
    for given in (batch, changed, changed.rows([1, 0])):
        torch.testing.assert_close(reference.token_nll(given)[0].sum(dim=1), reference.nll(given))


def test_kept_values_belong_to_the_weights_that_they_were_computed_with(loader):
    reference = Reference(tiny_causal_lm().eval(), TASK, CPU)
    expected = reference.token_nll(loader.batch([1, 2]))[0]
    state = reference.state_dict()
    same = Reference(tiny_causal_lm().eval(), TASK, CPU)
    same.load_state_dict(state)
    same.model = None  # nothing is computed again
    assert torch.equal(same.token_nll(loader.batch([1, 2]))[0], expected)
    with pytest.raises(ModelError, match="those of another original"):
        Reference(tiny_causal_lm(seed=1).eval(), TASK, CPU).load_state_dict(state)


def test_the_references_head_has_no_gradient_and_the_divergence_from_it_vanishes_at_the_start(loader):
    model = tiny_causal_lm().eval()
    reference, batch = Reference(model, TASK, CPU), loader.batch([0, 5])
    for task in (TASK, CausalLMTask(max_logits=64)):
        loss = task.divergence(task.output(model, batch), reference.output(batch), batch).sum()
        assert abs(loss.item()) < 1e-6
        loss.backward()
        assert max(float(p.grad.abs().max()) for p in model.parameters()) < 1e-6
        model.zero_grad()


def test_weights_that_a_method_cannot_change_are_refused():
    case = language_case()
    layer = case.model.transformer.h[0].mlp.c_fc
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(MethodError, match="1 of the model's weights are quantised, and fine_tune"):
        check_job(build_method("fine_tune"), case.job())
    with pytest.raises(MethodError, match=r"ssd changes the weights themselves"):
        check_job(build_method("ssd"), adapter_case().job())
    case = adapter_case()
    case.model = case.model.adapted(LoraOptions(), 0)
    with pytest.raises(MethodError, match="has one already"):
        check_job(build_method("npo"), case.job())
    case = classifier_case()
    case.lora = LoraOptions()
    with pytest.raises(MethodError, match="no language model"):
        check_job(build_method("npo"), case.job())
