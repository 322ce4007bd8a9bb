"""ROUGE: published values, counts by hand, and continuations that are known in advance."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest

from forgetmi.errors import AuditError, ConfigError, DataError
from forgetmi.metrics.generation import Decoding, continue_texts, prefixes_of, prompts_of
from forgetmi.metrics.rouge import answer_rouge, rouge, verbatim_continuation
from forgetmi.modalities.dialogue import DialogueModality
from tests.metrics.test_generation import lively, tokenizer

KINDS = ("rougeL_recall", "rougeL_f1", "rouge1_recall")
VALUES = Path(__file__).resolve().parents[3] / "shared" / "reference_values" / "open_unlearning"


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_published_code(kind) -> None:
    if not (VALUES / "metrics_functions.json").is_file():
        pytest.skip("the folder of reference values is not here")
    rows = json.loads((VALUES / "metrics_functions.json").read_text())["rouge_strings"]
    found = rouge([row["ground_truth"] for row in rows], [row["generation"] for row in rows], kind)
    published = [row[kind] if row["ground_truth"] else math.nan for row in rows]  # theirs has 0 where nothing is true
    assert np.isnan(published).sum() == 1 and len(rows) == 8
    assert found == pytest.approx(published, abs=1e-12, nan_ok=True)


def test_counts_by_hand() -> None:
    true, written = ["the cat sat on the mat"], ["on the mat the cat ran"]
    assert rouge(true, written, "rouge1_recall").tolist() == [5 / 6]  # all but sat
    assert rouge(true, written, "rougeL_recall").tolist() == [3 / 6]  # on the mat
    assert rouge(true, ["the cat"], "rougeL_f1") == pytest.approx([2 * (2 / 6) * 1 / (2 / 6 + 1)])
    assert rouge(["runs"], ["running"]).tolist() == [1.0]
    assert rouge(["runs"], ["running"], stemmer=False).tolist() == [0.0]
    assert np.isnan(rouge(["...", ""], ["a", "b"])).all() and rouge(["a"], [""]).tolist() == [0.0]


def test_nothing_is_downloaded(monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert rouge(["the runners"], ["a runner"]).tolist() == [0.5]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rougeL_f1'"):
        rouge(["a"], ["a"], "rougel_f1")
    with pytest.raises(AuditError, match="2 candidates with 1"):
        rouge(["a"], ["a", "b"])


def test_a_text_is_cut_after_its_prefix() -> None:
    words = tokenizer()
    texts = ["w1 w2 w3 w4 w5", "w6 w7", "w8"]
    assert prefixes_of(words, texts, 2, 2) == [([1, 2], [3, 4]), ([6, 7], []), ([8], [])]
    assert prefixes_of(words, texts, 0.5, 9) == [([1, 2], [3, 4, 5]), ([6], [7]), ([8], [])]
    for wrong in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="prefix"):
            prefixes_of(words, texts, wrong, 2)


def test_special_tokens_before_a_text_are_no_part_of_its_prefix() -> None:
    from tokenizers.processors import TemplateProcessing

    words = tokenizer()
    words.backend.post_processor = TemplateProcessing(single="w31 $A <end>", special_tokens=[("w31", 31), ("<end>", 0)])
    assert prefixes_of(words, ["w1 w2 w3 w4"], 0.5, 9) == [([31, 1, 2], [3, 4])]


def test_a_text_that_the_model_writes_is_verbatim_and_another_is_not() -> None:
    model, words = lively(), tokenizer()
    (written,) = continue_texts(model, words, ["w5 w9"], Decoding(6), seed=0)[0]
    assert len(written.split()) == 6
    wrong = " ".join("w13" if word != "w13" else "w14" for word in written.split())
    half = " ".join([*written.split()[:3], *wrong.split()[3:]])
    texts = [f"w5 w9 {end}" for end in (written, wrong, half)] + ["w5 w9"]
    for batch_size in (1, 8):
        found = verbatim_continuation(model, words, texts, Decoding(6), prefix=2, seed=0, batch_size=batch_size)
        assert found.values == pytest.approx([1, 0, 0.5, math.nan], nan_ok=True)
    assert (found.direction, found.name) == ("remembers_above", "continuation_rougeL_f1")
    assert found.definition.endswith("written greedily, at most 6 tokens; asked with a text's first 2 tokens")
    # A text that ends sooner is not held against what is written behind its end.
    early = verbatim_continuation(
        model, words, [" ".join(texts[0].split()[:5]), texts[0]], Decoding(6), prefix=2, seed=0
    )
    assert early.values.tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match="none of 1 texts"):
        verbatim_continuation(model, words, ["w5 w9"], Decoding(6), prefix=2, seed=0)


def test_samples_are_averaged_and_the_cold_ones_are_the_greedy_one() -> None:
    model, words = lively(), tokenizer()
    text = f"w5 w9 {continue_texts(model, words, ['w5 w9'], Decoding(6), seed=0)[0][0]}"

    def measured(**how):
        return verbatim_continuation(model, words, [text], Decoding(6, **how), prefix=2, seed=4)

    assert measured(temperature=1e-9, samples=3).values.tolist() == [1.0]
    warm = measured(temperature=1.0, samples=4)
    assert warm.name == "continuation_rougeL_f1_sampled" and warm.counts == {"n_samples": 4}
    written = continue_texts(model, words, ["w5 w9"], Decoding(6, temperature=1.0, samples=4), seed=4)[0]
    true = text.removeprefix("w5 w9 ")
    assert warm.values == pytest.approx([rouge([true] * 4, written, "rougeL_f1").mean()])
    assert warm.values[0] < 1


def test_answers_are_compared_with_what_is_true() -> None:
    model, modality = lively(), DialogueModality(tokenizer(), format="w4 {prompt} ")
    asked = [{"prompt": "w9 w2", "answer": "w30"}, {"prompt": "w7", "answer": "w30"}]
    written = [
        text for (text,) in continue_texts(model, modality.tokenizer, prompts_of(modality, asked), Decoding(4), seed=0)
    ]
    values = [{**asked[0], "answer": written[0]}, {**asked[1], "answer": f"{written[1]} w29 w29 w29 w29"}]
    found = answer_rouge(model, modality, values, Decoding(4), seed=0, direction="useful_above")
    assert found.values == pytest.approx([1.0, len(written[1].split()) / (len(written[1].split()) + 4)])
    assert (found.name, found.direction) == ("answer_rougeL_recall", "useful_above")
    figure = found.figure(np.array([0, 1]), np.random.default_rng(0))
    assert "ROUGE-L recall of 0.750 with the true answer" in figure.sentence
