"""Signals of language models, and the attacks that read them: against published values and by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.attacks.gradient_norms import gradient_norms
from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.language_signals import LanguageSignalOptions, answer_texts, language_signals
from forgetmi.attacks.membership.patients import combine
from forgetmi.attacks.membership.perturbations import PerturbationOptions, WordLaw, perturbed
from forgetmi.attacks.membership.result import LANGUAGE_SIGNALS, PartSignals, References
from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc
from forgetmi.metrics.token_signals import likelihood, token_signals, zlib_lengths
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.attacks.published_lm import (
    TOKENS,
    answers,
    loader_of,
    published_auc,
    published_model,
    scores,
)
from tests.tiny import language_case, tiny_causal_lm, tiny_tokenizer

CPU, TASK = torch.device("cpu"), CausalLMTask()
ROLES = ("target", "current", "retain")
FAST = {"n_resamples": 100}


def parts_of(role, k=0.4):
    found = {}
    for part in TOKENS:
        loader = loader_of(part)
        indices = range(len(loader.dataset))
        values = {}
        for names, drop_last in ((("loss",), False), (("min_k", "min_k_plus_plus"), True)):
            options = LanguageSignalOptions(names, k=k, drop_last=drop_last)
            values |= language_signals(published_model(role), TASK, loader, indices, CPU, options, batch_size=6, seed=0)
        values["zlib"] = -values["loss"] / zlib_lengths(answers(part))  # the records here are tokens
        found[part] = PartSignals(values, [f"{part}{n}" for n in indices])
    return found


@pytest.mark.parametrize("k", [0.2, 0.4])
@pytest.mark.parametrize("role", ROLES)
def test_published_scores(role, k):
    """Theirs are higher where a record is less likely a member."""
    for part, signals in parts_of(role, k).items():
        found = signals.signals
        np.testing.assert_allclose(found["loss"], scores(role, "mia_loss", part), rtol=2e-5)
        np.testing.assert_allclose(-found["zlib"], scores(role, "mia_zlib", part), rtol=2e-5)
        np.testing.assert_allclose(-found["min_k"], scores(role, f"mia_min_k_{k}", part), rtol=2e-5)
        expected = scores(role, f"mia_min_k_plus_plus_{k}", part)
        np.testing.assert_allclose(-found["min_k_plus_plus"], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("role", ROLES)
def test_published_aucs(role):
    data = parts_of(role)
    published = {
        "loss": "mia_loss",
        "zlib": "mia_zlib",
        "min_k": "mia_min_k_0.4",
        "min_k_plus_plus": "mia_min_k_plus_plus_0.4",
    }
    for name, theirs in published.items():
        result = ATTACKS[name](**FAST).result(data["forget"], data["holdout"], np.random.default_rng(0))
        assert result.figures["auc"].value == pytest.approx(published_auc(role, theirs), abs=1e-12)


@pytest.mark.parametrize("role", ROLES)
def test_the_reference_attack_is_the_calibrated_one(role):
    """With one model to compare with: its loss less the model's."""
    losses = {part: parts_of("retain")[part].signals["loss"] for part in TOKENS}
    data = {
        part: replace(
            signals,
            references={"retrained": References({"loss": losses[part][None]}, np.zeros((1, losses[part].size), bool))},
        )
        for part, signals in parts_of(role).items()
    }
    result = ATTACKS["calibrated"](**FAST).result(data["forget"], data["holdout"], np.random.default_rng(0))
    expected = np.concatenate([scores(role, "mia_reference_vs_retain", part) for part in TOKENS])
    np.testing.assert_allclose(result.scores, -expected, rtol=1e-3, atol=1e-6)
    assert result.figures["auc"].value == pytest.approx(published_auc(role, "mia_reference_vs_retain"), abs=1e-12)


TEXTS = [
    "heart large fluid left small right no new fluid clear",
    "no new fluid left heart clear lungs large right small lungs",
    "right lungs small heart no fluid clear left new large clear heart",
    "small left no large clear heart right fluid lungs new",
    "clear lungs heart large new left",
    "fluid right small no",
]
LAW = WordLaw(["clear lungs no new fluid", "heart large left small right heart clear", "no fluid left lungs new small"])


def notes(**options):
    """Plain texts and answers by turns, as a model's loader gives them."""
    backend = tiny_tokenizer()
    backend.add_special_tokens(["[END]"])
    reader = DialogueModality(LMTokenizer(backend, eos="[END]", pad="[PAD]"), format="{prompt} ", **options)
    records = [
        Record(
            f"s{n}",
            f"s{n}",
            f"p{n}",
            "h",
            {"tokens": text if n % 2 else {"prompt": "no", "answer": text}},
            None,
            "train",
        )
        for n, text in enumerate(TEXTS)
    ]
    return Loader(RecordDataset(records, name="notes", levels=("sample",)), {"tokens": reader})


class Counting(nn.Module):
    """Counts the calls of a model."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, input_ids, **inputs):
        self.rows += len(input_ids)
        return self.model(input_ids=input_ids, **inputs)


ALL = ("loss", *LANGUAGE_SIGNALS)


def asked(model, loader, indices=range(6), names=ALL, *, batch_size=4, seed=3, n=4, **settings):
    options = LanguageSignalOptions(names, perturbation=PerturbationOptions(n=n))
    law = LAW if "perturbation" in names else None
    return language_signals(
        model, TASK, loader, list(indices), CPU, options, batch_size=batch_size, seed=seed, filler=law, **settings
    )


def test_all_signals_by_hand():
    model, loader = tiny_causal_lm().eval(), notes()
    found = asked(model, loader)
    assert list(found) == list(ALL)
    batch = loader.batch(range(6))
    with torch.no_grad():
        loss = TASK.mean_nll(model, batch).numpy()
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    assert answer_texts(loader, range(6), "tokens") == TEXTS
    np.testing.assert_allclose(found["zlib"], -loss / zlib_lengths(TEXTS), rtol=1e-5)
    np.testing.assert_allclose(found["gradient_norm"], gradient_norms(model, TASK, [batch], CPU), rtol=1e-5)
    likely = []
    for number in range(4):
        others = perturbed(TEXTS, [f"s{n}" for n in range(6)], LAW, PerturbationOptions(), seed=3, number=number)
        values = [other if n % 2 else {"prompt": "no", "answer": other} for n, other in enumerate(others)]
        records = {n: replace(loader.record(n), modalities={"tokens": value}) for n, value in enumerate(values)}
        with torch.no_grad():
            likely.append(-TASK.mean_nll(model, loader.restricted_to(records).batch(range(6))).numpy())
    np.testing.assert_allclose(found["perturbation"], -loss - np.mean(likely, axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(found["perturbation"]).min() > 1e-4


def test_order_and_batches_change_nothing():
    model, loader = tiny_causal_lm().eval(), notes()
    expected, order = asked(model, loader), [4, 0, 5]
    other = asked(model, loader, order, batch_size=1)
    for name, values in expected.items():
        np.testing.assert_allclose(other[name], values[order], rtol=1e-4, atol=1e-6)
    assert not np.allclose(asked(model, loader, seed=4)["perturbation"], expected["perturbation"], rtol=1e-3)


def test_one_pass_for_all_signals_of_tokens():
    model, loader = Counting(tiny_causal_lm().lm).eval(), notes()
    names = ("loss", "zlib", "min_k", "min_k_plus_plus")
    found = asked(model, loader, names=names)
    assert model.rows == 6
    tokens = token_signals(model, TASK, loader.batches(range(6), 6), CPU)
    model.rows = 0
    given = asked(model, loader, names=names, tokens=tokens)
    assert model.rows == 0
    for name in names:
        np.testing.assert_allclose(given[name], found[name], rtol=1e-5)
    asked(model, loader, names=("perturbation",), tokens=tokens, n=7)
    assert model.rows == 7 * 6
    short = LanguageSignalOptions(("loss",), drop_last=True)
    cut = language_signals(model, TASK, loader, range(6), CPU, short, batch_size=6, seed=0, tokens=tokens)
    np.testing.assert_allclose(cut["loss"], -likelihood(tokens.without_last()))
    assert (cut["loss"] != found["loss"]).all()


def test_longer_than_allowed_is_cut_where_it_was_perturbed():
    """Words that are unknown by the reader become as many tokens as they have letters: here, none are longer."""
    longest = max(len(notes().batch([n]).inputs["tokens"]["input_ids"][0]) for n in range(6))
    model, loader = tiny_causal_lm().eval(), notes(max_length=longest)
    law = WordLaw(["clear-lungs-no heart.large.left"])  # a word of five tokens
    options = LanguageSignalOptions(("perturbation",), perturbation=PerturbationOptions(n=3))
    found = language_signals(model, TASK, loader, range(6), CPU, options, batch_size=6, seed=0, filler=law)
    assert np.isfinite(found["perturbation"]).all()
    assert loader.modalities["tokens"].on_long == "error"


def test_a_memorised_text_lies_above_texts_like_it():
    model, loader = tiny_causal_lm().train(), notes()
    optimiser, members = torch.optim.AdamW(model.parameters(), lr=1e-2), [0, 1, 4]
    for _ in range(60):
        optimiser.zero_grad()
        TASK.loss(model, loader.batch(members)).backward()
        optimiser.step()
    optimiser.zero_grad()
    found = asked(model.eval(), loader, n=10)
    member = np.isin(range(6), members)
    for name, values in found.items():
        sign = -1 if name in ("loss", "gradient_norm") else 1
        assert auc(sign * values, member) == 1.0, name


def test_a_model_that_says_nothing_gives_no_distance():
    class Flat(nn.Module):
        def forward(self, input_ids, attention_mask):
            from types import SimpleNamespace

            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 32))

    found = asked(Flat(), notes(), names=("loss", "perturbation", "min_k_plus_plus"))
    np.testing.assert_allclose(found["loss"], np.log(32), rtol=1e-6)
    np.testing.assert_allclose(found["perturbation"], 0.0, atol=1e-6)
    np.testing.assert_allclose(found["min_k_plus_plus"], 0.0, atol=1e-3)


def test_what_is_missing_is_said():
    model, loader, case = tiny_causal_lm(), notes(), language_case()
    options = LanguageSignalOptions(("perturbation",))
    with pytest.raises(AuditError, match="nothing says by which"):
        language_signals(model, TASK, loader, [0], CPU, options, batch_size=1, seed=0)
    with pytest.raises(AuditError, match="has no text"):
        asked(case.model, case.loader, names=("zlib",))
    with pytest.raises(ConfigError) as error:
        LanguageSignalOptions(("los", "min_k"), k=0.0)
    assert len(error.value.problems) == 2
    assert "loss" in error.value.problems[0]
    part = PartSignals({"loss": np.ones(4)}, list("abcd"))
    for name in LANGUAGE_SIGNALS:
        with pytest.raises(AuditError, match="language models"):
            ATTACKS[name]().result(part, replace(part, patients=list("efgh")), np.random.default_rng(0))


def test_the_distance_counts_either_way_or_not():
    rng = np.random.default_rng(0)
    values = {"forget": -3.0 - rng.random(20), "test": rng.random(30)}  # pushed below texts like them
    parts = {
        k: PartSignals({"perturbation": v, "loss": v}, [f"{k}{n}" for n in range(v.size)]) for k, v in values.items()
    }
    found = {
        absolute: ATTACKS["perturbation"](absolute=absolute, **FAST).result(*parts.values(), np.random.default_rng(0))
        for absolute in (True, False)
    }
    assert (found[True].figures["auc"].value, found[False].figures["auc"].value) == (1.0, 0.0)
    assert "|perturbation|" in found[True].definition


def test_documents_of_one_patient_together():
    """Per patient, by the rules that all attacks share."""
    values = np.array([-1.0, -3.0, -2.0, -5.0, -4.0])
    part = PartSignals({"min_k": values}, ["a", "a", "b", "c", "c"])
    other = PartSignals({"min_k": values - 9.0}, ["d", "d", "e", "f", "f"])
    result = ATTACKS["min_k"](**FAST).result(part, other, np.random.default_rng(0))
    together = combine(result.scores, result.patient, "max")
    assert together.scores.tolist() == [-1.0, -2.0, -4.0, -10.0, -11.0, -13.0]
    assert Counter(together.n_records.tolist()) == {2: 4, 1: 2}
