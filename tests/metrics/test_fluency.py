"""Fluency by hand, and of two models that are destroyed in different ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forgetmi.batch import Loader
from forgetmi.errors import AuditError
from forgetmi.metrics.fluency import distinct, n_gram_entropy, repetition
from forgetmi.metrics.generation import Decoding, continue_texts
from forgetmi.metrics.token_signals import perplexity, token_signals
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.metrics.test_generation import tokenizer
from tests.tiny import VOCABULARY, tiny_causal_lm


def test_entropy_by_hand() -> None:
    # a b a b a: bigrams ab 2, ba 2: 1 bit; trigrams aba 2, bab 1: log2 3 - 2/3.
    trigrams = math.log2(3) - 2 / 3
    found = n_gram_entropy([["a b a b a"], ["a, a"], ["x x x x"], ["one two"], [""]])
    # a , a: bigrams "a ," and ", a": 1 bit; one trigram: 0. A loop has none at all.
    assert found.values == pytest.approx([1 / 3 + 2 * trigrams / 3, 1 / 3, 0.0, math.nan, math.nan], nan_ok=True)
    assert (found.direction, found.bounds) == ("useful_above", None)
    assert found.counts == {"n_texts": 5, "n_empty": 1, "n_records_with_another_ones_text": 0}
    assert found.figure(np.arange(5), np.random.default_rng(0)).counts["n_without_value"] == 2


def test_of_different_words_it_is_the_logarithm_of_their_number() -> None:
    text = " ".join(f"w{n}" for n in range(18))  # 17 bigrams, 16 trigrams, all different
    assert n_gram_entropy([[text]]).values == pytest.approx([math.log2(17) / 3 + 2 * 4 / 3])
    assert repetition([[text]]).values.tolist() == [0.0]
    assert distinct([[text]]).values == pytest.approx([17 / 18])


def test_repetition_and_distinct_by_hand() -> None:
    text = ["a b a b a"]  # 4 bigrams, 2 different; 5 words, 2 different
    assert repetition([text], 2).values.tolist() == [0.5]
    assert distinct([text], 2).values.tolist() == [2 / 5] and distinct([text], 1).values.tolist() == [2 / 5]
    assert repetition([["x " * 100]], 4).values == pytest.approx([96 / 97])
    assert repetition([["a b c"]], 4).values == pytest.approx([math.nan], nan_ok=True)
    assert repetition([text]).direction == "useful_below"


def test_samples_are_averaged_and_equal_records_counted() -> None:
    found = distinct([["a a", "a b", ""], ["a a", "a b", ""], ["c d", "c d", "c d"]], 1)
    assert found.values.tolist() == [0.75, 0.75, 1.0]
    assert found.counts == {"n_texts": 9, "n_empty": 2, "n_records_with_another_ones_text": 2}


@pytest.mark.parametrize("texts", [[[]], ["a b c"], "abc"])
def test_a_record_without_a_text_is_refused(texts) -> None:
    with pytest.raises(AuditError, match="no text"):
        n_gram_entropy(texts)
    with pytest.raises(AuditError, match="at least 1"):
        repetition([["a"]], 0)


def runs(start: int, length: int = 8) -> list[int]:
    """A sound model's language: each token is followed by the next one, in a circle of all but the end."""
    return [1 + (start + step) % (VOCABULARY - 1) for step in range(length)]


@pytest.fixture(scope="module")
def sound() -> CausalLM:
    model = tiny_causal_lm()
    ids = torch.tensor([runs(start, 14) for start in range(VOCABULARY - 1)])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits = model(ids, torch.ones_like(ids)).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def looping(sound: CausalLM) -> CausalLM:
    """Gradient ascent often ends so: one token, whatever was asked."""
    model = tiny_causal_lm()
    model.load_state_dict(sound.state_dict())
    with torch.no_grad():
        model.lm.transformer.ln_f.weight.zero_()
        model.lm.transformer.ln_f.bias.copy_(model.lm.get_input_embeddings().weight[7] * 20)
    return model


def test_a_destroyed_model_is_seen_by_fluency_or_by_perplexity(sound: CausalLM) -> None:
    prompts = [runs(start, 3) for start in range(0, 30, 3)]
    records = [
        Record(f"s{n}", f"s{n}", f"p{n}", "", {"tokens": {"ids": runs(n, 10), "answer": 3}}, None, "test")
        for n in range(10)
    ]
    dataset = RecordDataset(records, name="runs", levels=("sample",), modality_kinds={"tokens": "tokens"})
    loader = Loader(dataset, {"tokens": TokenModality(pad_id=0)})

    def judged(model: CausalLM) -> tuple[float, float, float, int]:
        texts = continue_texts(model, tokenizer(), prompts, Decoding(12), seed=0)
        signals = token_signals(model, CausalLMTask(), loader.batches(range(10), 5), torch.device("cpu"))
        entropy = n_gram_entropy(texts)
        return (
            float(np.nanmean(entropy.values)),
            float(np.nanmean(repetition(texts, 2).values)),
            float(perplexity(signals).values.mean()),
            entropy.counts["n_records_with_another_ones_text"],
        )

    entropy, repeated, surprise, alike = judged(sound)
    assert entropy > 3 and repeated == 0 and surprise < 1.2 and alike == 0
    # Random weights: nothing that was learned is left, so every token is about as likely as any other.
    assert judged(tiny_causal_lm(5))[2] > VOCABULARY / 2
    # One token for ever: no entropy, all repeated, and the same for everyone.
    entropy, repeated, surprise, alike = judged(looping(sound))
    assert entropy == 0 and repeated > 0.85 and surprise > VOCABULARY and alike == 10
