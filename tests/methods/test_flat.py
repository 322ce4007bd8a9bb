"""FLAT: the loss through a model, templates, and what the published averaging makes of padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.methods import build_method
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.modalities.test_dialogue import tokenizer
from tests.tiny import classifier_case, language_case, same_state, state_of

FIT = {"epochs": 1, "batch_size": 100, "lr": 0.0, "mode": "eval"}
ANSWERS = ("ann", "ann is here", "bob is here is bob", "bob", "is bob", "here")
DIVERGENCES = ["kl", "jensen_shannon", "pearson", "total_variation"]


def dialogue_case():
    """Twelve patients with a question each; answers of one to five words."""
    records = [
        Record(f"s{n}", f"t{n}", f"p{n}", "h",
               {"tokens": {"prompt": "who is here ?", "answer": ANSWERS[n % 6]}}, None, "train")
        for n in range(12)
    ]  # fmt: skip
    data = RecordDataset(records, name="d", levels=("patient", "sample"), modality_kinds={"tokens": "dialogue"})
    loader = Loader(data, {"tokens": DialogueModality(tokenizer(), format="{prompt} ")})
    partition = resolve(data, ForgetRequest.of("patient", [f"p{n}" for n in range(6)]))
    return replace(language_case(), dataset=data, loader=loader, task=CausalLMTask(), partition=partition)


@pytest.fixture
def templates(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("ann ? who\n")
    return str(file)


def loss_of(case, **options):
    job = case.job(seed=1)
    build_method("flat", {"fit": FIT, **options}).unlearn(job)
    return next(event for event in job.trainer.log.events if event["event"] == "epoch")["loss"]


def probabilities(case, batch):
    """Of each record the probabilities of its answer's tokens."""
    tokens = batch.inputs["tokens"]
    with torch.no_grad():
        logits = case.model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.double()
    p = logits.log_softmax(-1)[:, :-1].gather(2, tokens["labels"][:, 1:].clamp(min=0)[..., None])[..., 0].exp()
    there = tokens["labels"][:, 1:] != -100
    return [row[mask] for row, mask in zip(p, there, strict=True)], there.numel()


def both(case):
    forget = case.partition.forget
    answers = case.loader.batch(forget)
    return probabilities(case, case.loader.answered(forget, ["ann ? who"] * 6)), probabilities(case, answers)


def by_hand(divergence, e, f):
    """The losses of the paper's table, each written out."""
    return {
        "kl": math.exp(f - 1) - e,
        "jensen_shannon": f + math.log(1 + math.exp(-f)) - math.log(2) - (math.log(2) - math.log(1 + math.exp(-e))),
        "pearson": f * f / 4 + f - e,
        "total_variation": (math.tanh(f) - math.tanh(e)) / 2,
    }[divergence]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_loss_is_the_papers_of_mean_probabilities_over_answer_tokens(divergence, templates):
    case = dialogue_case()
    (template, _), (forget, _) = both(case)
    expected = [by_hand(divergence, e.mean().item(), f.mean().item()) for e, f in zip(template, forget, strict=True)]
    found = loss_of(case, divergence=divergence, answers=templates)
    assert found == pytest.approx(sum(expected) / 6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_published_averaging_counts_prompt_and_padding(divergence, templates):
    """Known to be wrong: P is a mean over the whole batch, in which all but answers' tokens count zero."""
    case = dialogue_case()
    (template, n_template), (forget, n_forget) = both(case)
    e, f = torch.cat(template).sum().item() / n_template, torch.cat(forget).sum().item() / n_forget
    found = loss_of(case, divergence=divergence, answers=templates, reference_compat=True)
    assert found == pytest.approx(by_hand(divergence, e, f), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("compat", [False, True])
def test_padding_changes_the_published_loss_and_not_ours(compat, templates):
    losses = [
        loss_of(dialogue_case(), answers=templates, reference_compat=compat, fit={**FIT, "batch_size": size})
        for size in (1, 6)
    ]
    assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) == (not compat)


def test_the_template_becomes_likelier_and_the_answer_less_likely(templates):
    case = dialogue_case()
    fit = {**FIT, "epochs": 30, "lr": 1e-2, "batch_size": 6}
    model = build_method("flat", {"fit": fit, "answers": templates}).unlearn(case.job(seed=1))
    (e0, _), (f0, _) = both(case)
    (e1, _), (f1, _) = both(replace(case, model=model))
    assert torch.cat(e1).mean() > 2 * torch.cat(e0).mean() and torch.cat(f1).mean() < torch.cat(f0).mean()


def test_no_retain_record_is_seen_unless_asked_for(templates):
    case = dialogue_case()
    seen: set[int] = set()
    job = case.job(seed=1)
    real = job.loader.batch
    job.loader.batch = lambda indices: (seen.update(indices), real(indices))[1]
    fit = {**FIT, "lr": 1e-2}
    alone = build_method("flat", {"fit": fit, "answers": templates}).unlearn(job)
    assert seen == set(case.partition.forget)
    held = build_method("flat", {"fit": fit, "answers": templates, "retain": "nll"}).unlearn(case.job(seed=1))
    assert not same_state(state_of(alone), state_of(held))


def test_what_cannot_be_done_is_said(tmp_path):
    with pytest.raises(MethodError, match="cannot serve the task 'classification'"):
        build_method("flat").unlearn(classifier_case().job())
    plain = dialogue_case()
    plain.loader._overrides = {i: replace(r, modalities={"tokens": "ann is here"}) for i, r in enumerate(plain.dataset)}
    with pytest.raises(DataError, match="no question that could be answered otherwise"):
        build_method("flat").unlearn(plain.job())
    broken = tmp_path / "list.json"
    broken.write_text('{"a": 1}')
    with pytest.raises(ConfigError, match="list of strings"):
        build_method("flat", {"answers": str(broken)})
    with pytest.raises(ConfigError, match="divergence"):
        build_method("flat", {"divergence": "neyman"})
