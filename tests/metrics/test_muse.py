"""MUSE's figures: what a model writes when it is made to, PrivLeak by hand and as published, tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.data_adapters.muse import Muse
from forgetmi.errors import AuditError, DataError
from forgetmi.metrics import muse
from forgetmi.metrics.muse import MuseResult, evaluate_muse, knowmem, privleak, rel_diff, verbmem
from forgetmi.metrics.muse_tables import scalability, sustainability
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.token_signals import min_k, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.tiny import tiny_tokenizer

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")


@pytest.fixture
def written(monkeypatch):
    """What the model is made to write; and what it was asked."""
    asked = []

    def answers(model, tokenizer, prompts, decoding, **how):
        asked.append((list(prompts), decoding, how))
        return [["the silent compass"] * decoding.samples for _ in prompts]

    monkeypatch.setattr(muse, "continue_texts", answers)
    return asked


def tokenizer():
    return LMTokenizer(tiny_tokenizer(), eos="[UNK]", pad="[PAD]")


def test_knowledge_is_asked_few_shot_and_scored_by_f1(written):
    examples = [{"prompt": "Who?", "answer": "Ann"}]
    values = [{"prompt": "What?", "answer": "the broken compass"}, {"prompt": "Where?", "answer": "compass"}]
    found = knowmem(None, tokenizer(), values, examples, of="forget")
    assert written[0][0][0] == "Question: Who?\nAnswer: Ann\n\nQuestion: What?\nAnswer:"
    assert written[0][1].stop == ("\n\n", "\nQuestion", "Question:")
    # two of three words in common order; one of three written, of one: 2 * 1/3 * 1 / (4/3)
    assert found.values == pytest.approx([2 / 3, 0.5])
    assert (found.name, found.direction) == ("knowmem_forget", "remembers_above")
    kept = knowmem(None, tokenizer(), values, of="retain", trailing_space=True)
    assert (kept.name, kept.direction) == ("knowmem_retain", "useful_above")
    assert written[1][0] == ["Question: What?\nAnswer: ", "Question: Where?\nAnswer: "]


def test_a_continuation_is_compared_with_as_many_tokens_of_the_text(written):
    words = "clear lungs heart large fluid left"
    decoding = muse.Decoding(max_new_tokens=3)
    found = verbmem(None, tokenizer(), [{"prompt": "no new", "answer": words}], decoding)
    assert found.values == pytest.approx([0.0])
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muse, "rouge", lambda true, said, kind, stemmer: made.append((true, kind, stemmer)) or np.ones(1))
        verbmem(None, tokenizer(), [{"prompt": "no new", "answer": words}], decoding)
    assert made == [(["clear lungs heart"], "rougeL_f1", False)]


def test_privleak_by_hand():
    # A = 1 - AUC: (0.25 - 0.5) / 0.5
    assert privleak(0.75, 0.5) == pytest.approx(-50.0)
    assert privleak(0.75, 0.5, divisor="unlearned") == pytest.approx(-100.0)
    assert privleak(0.25, 0.5) == pytest.approx(50.0)
    assert privleak(0.6, 0.6) == 0.0
    assert privleak(1.0, 0.52) == pytest.approx(-100.0)
    assert rel_diff(0.75, 0.5) == pytest.approx(50.0)


@pytest.mark.parametrize("bad", [(0.5, None), (None, 0.5), (0.5, 1.0), (float("nan"), 0.5), (0.5, 1.5)])
def test_a_missing_reference_is_never_a_half(bad):
    with pytest.raises(AuditError):
        privleak(*bad)


@pytest.mark.parametrize("bad", [(0.5, None), (0.5, 0.0), (float("nan"), 0.5)])
def test_a_relative_difference_needs_a_reference(bad):
    with pytest.raises(AuditError):
        rel_diff(*bad)


@here
def test_published_privleak_and_relative_differences():
    theirs = json.loads((FOLDER / "metrics_functions.json").read_text())
    for name, ours in (("privleak", privleak), ("rel_diff", rel_diff)):
        missing = [row for row in theirs[name] if row["auc_retain"] is None]
        assert missing  # a missing reference: they take 0.5 for it, in silence
        for row in missing:
            assert row["agg_value"] == pytest.approx(ours(row["auc_forget"], 0.5), rel=1e-8)
            with pytest.raises(AuditError):
                ours(row["auc_forget"], None)
        for row in theirs[name]:
            if row["auc_retain"] is not None:  # they add 1e-10 to what they divide by
                found = ours(row["auc_forget"], row["auc_retain"])
                assert found == pytest.approx(row["agg_value"], rel=1e-9, abs=1e-9)


def attacked(scores, member):
    return MuseResult(scores=np.asarray(scores, dtype=np.float64), member=np.asarray(member))


def test_privleak_has_an_interval_of_documents():
    draw = np.random.default_rng(0)
    member = np.arange(60) < 30
    retrained = attacked(draw.normal(size=60), member)
    remembers = attacked(retrained.scores + 2.0 * member, member)
    figure = remembers.privleak(retrained, np.random.default_rng(1))
    assert figure.value == pytest.approx(privleak(remembers.auc, retrained.auc))
    assert figure.interval.high < 0
    assert figure.direction == "remembers_below"
    assert figure.n_patients == 60
    same = retrained.privleak(retrained, np.random.default_rng(1))
    assert same.value == 0.0
    with pytest.raises(AuditError, match="no default"):
        remembers.privleak(MuseResult(), np.random.default_rng(1))
    with pytest.raises(AuditError, match="other documents"):
        remembers.privleak(attacked(retrained.scores, ~member), np.random.default_rng(1))
    with pytest.raises(AuditError, match="which is 0"):
        remembers.privleak(attacked(member * 1.0, member), np.random.default_rng(1))


@here
def test_all_parts_of_a_model_on_published_files():
    place = FOLDER / "inputs" / "gpt2_target"
    model, words = build_causal_lm({"path": place}, 0), read_lm_tokenizer(place)
    root = FOLDER / "inputs" / "muse-bench" / "MUSE-News"
    parts = {part: Muse(root, part).load() for part in ("verbmem", "knowmem", "privleak")}
    found = evaluate_muse(model, words, parts, continuation=muse.Decoding(max_new_tokens=16))
    for name in ("verbmem", "knowmem_forget", "knowmem_retain"):
        metric = getattr(found, name)
        assert 0.0 <= metric.values[metric.known].mean() <= 1.0
    # The attack, document by document.
    modality, texts = DialogueModality(words), [
        record.value("text") for of in ("forget", "holdout") for record in parts["privleak"]
        if record.attributes["source_split"] == of
    ]  # fmt: skip
    one = torch.ones(1, dtype=torch.bool)
    batches = [
        Batch({"tokens": modality.collate([modality.prepare(text)])}, {"tokens": one}, None, torch.tensor([0]))
        for text in texts
    ]
    alone = token_signals(model, CausalLMTask(), batches, torch.device("cpu")).without_last()
    assert found.scores == pytest.approx(min_k(alone, 0.4), abs=1e-4)
    assert found.member.sum() == sum(r.attributes["source_split"] == "forget" for r in parts["privleak"])
    with pytest.raises(DataError, match="raw"):
        evaluate_muse(model, words, {"raw": parts["privleak"]})
    holdout = [r for r in parts["privleak"] if r.attributes["source_split"] != "holdout"]
    with pytest.raises(DataError, match="holdout"):
        evaluate_muse(model, words, {"privleak": holdout})


def kept(values):
    return MuseResult(knowmem_retain=PerExample("knowmem_retain", np.array(values), "useful_above", "{value}"))


def test_tables_pair_questions_with_the_first_model():
    results = [kept([0.5, 0.7, 0.9]), kept([0.4, 0.5, 0.6]), kept([0.0, 0.1, 0.2])]
    table = scalability(results, [0.8, 1.6, 3.2], np.random.default_rng(0))
    assert [row["size"] for row in table.rows] == [0.8, 1.6, 3.2]
    assert [row["knowmem_retain"] for row in table.rows] == pytest.approx([0.7, 0.5, 0.1])
    assert [row["knowmem_retain_change"] for row in table.rows] == pytest.approx([0.0, -0.2, -0.6])
    assert table.rows[2]["knowmem_retain_change_high"] < 0
    json.dumps(table.to_dict(), allow_nan=False)
    requests = sustainability(results, np.random.default_rng(0))
    assert [row["request"] for row in requests.rows] == [1, 2, 3]
    assert "privleak" not in requests.rows[0]


def test_tables_of_privleak_need_a_retrained_model_a_step():
    member = np.arange(20) < 10
    draw = np.random.default_rng(0)
    models = [attacked(draw.normal(size=20) + step * member, member) for step in range(2)]
    retrained = [attacked(draw.normal(size=20), member) for _ in range(2)]
    table = sustainability(models, np.random.default_rng(0), retrained=retrained)
    assert table.rows[1]["privleak"] == pytest.approx(privleak(models[1].auc, retrained[1].auc))
    with pytest.raises(AuditError):
        sustainability(models, np.random.default_rng(0), retrained=retrained[:1])
    with pytest.raises(AuditError, match="growing"):
        scalability(models, [2.0, 1.0], np.random.default_rng(0))
    with pytest.raises(AuditError):
        sustainability([], np.random.default_rng(0))
    with pytest.raises(AuditError, match="different questions"):
        sustainability([kept([0.5, 0.7]), kept([0.5])], np.random.default_rng(0))
