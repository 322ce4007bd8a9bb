"""Texts like a text: which words are replaced, by which, and that nothing else decides it but seed, key and number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from forgetmi.attacks.membership.perturbations import MaskedLMFiller, PerturbationOptions, WordLaw, perturbed
from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.training.seeds import scoped_seed

TEXTS = ["a b a b a c", "  left lung\n\nis clear , heart  is large\t", "one", "p q r s t u v w x y z " * 3]


class _Star:
    """Every gap becomes a star."""

    def fill(self, texts, gaps, rngs):
        return [
            ["*" if hole else word for word, hole in zip(w, g, strict=True)] for w, g in zip(texts, gaps, strict=True)
        ]


def some(texts, filler=None, *, seed=1, number=0, **options):
    keys = [f"k{TEXTS.index(text)}" for text in texts]
    return perturbed(texts, keys, filler or _Star(), PerturbationOptions(**options), seed=seed, number=number)


def test_spans_are_replaced_and_nothing_else():
    for number in range(20):
        for text, made in zip(TEXTS, some(TEXTS, number=number), strict=True):
            assert "".join(c for c in made if c.isspace()) == "".join(c for c in text if c.isspace())
            words, other = text.split(), made.split()
            gone = [w != o for w, o in zip(words, other, strict=True)]
            n = len(words)
            spans = min(max(1, round(0.3 * n / min(2, n))), n // min(2, n))
            assert sum(gone) == spans * min(2, n)
            assert all(w == o for w, o in zip(words, other, strict=True) if o != "*")
    assert some(["one"]) == ["*"]
    assert some(TEXTS, share=1.0, span=1)[0] == "* * * * * *"
    assert perturbed([""], ["k"], _Star(), PerturbationOptions(), seed=0, number=0) == [""]


def test_every_place_is_as_likely():
    """One span of two words among four: three places."""
    found = Counter(
        perturbed(["a b c d"], ["k"], _Star(), PerturbationOptions(), seed=0, number=n)[0] for n in range(900)
    )
    assert set(found) == {"* * c d", "a * * d", "a b * *"}
    assert min(found.values()) > 240  # of 300; sd 14


def test_seed_key_and_number_decide_alone():
    law = WordLaw(TEXTS, order="unigram")
    expected = some(TEXTS, law)
    assert some(TEXTS, law) == expected
    assert some(TEXTS[::-1], law) == expected[::-1]
    assert some(TEXTS[3:], law) == expected[3:]
    assert len({some(TEXTS[3:], law, number=n)[0] for n in range(5)}) == 5
    assert some(TEXTS[3:], law, seed=2) != expected[3:]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    some(TEXTS, law)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_words_follow_one_another_as_in_the_texts():
    """After a: b three times and c once. c is never followed: anything, by how often it stands anywhere."""
    law = WordLaw(["a b a b", "a b a c"])
    gap = np.array([False, True, True])
    rngs = [np.random.default_rng(n) for n in range(2000)]
    filled = law.fill([["a", "?", "?"]] * 2000, [gap] * 2000, rngs)
    assert sum(words[1] == "b" for words in filled) == pytest.approx(1500, abs=80)  # sd 19
    assert {tuple(words) for words in filled if words[1] == "b"} == {("a", "b", "a")}
    after = Counter(words[2] for words in filled if words[1] == "c")
    total = sum(after.values())
    assert after["a"] / total == pytest.approx(4 / 8, abs=0.1)
    assert after["c"] / total == pytest.approx(1 / 8, abs=0.08)
    alone = WordLaw(["a b a b", "a b a c"], order="unigram").fill([["a", "?", "?"]] * 2000, [gap] * 2000, rngs)
    assert sum(words[1] == "a" for words in alone) == pytest.approx(1000, abs=100)
    assert WordLaw(["x y", "y x"])._everywhere[0] == WordLaw(["y x", "x y"])._everywhere[0]


def test_options_and_texts_are_checked():
    with pytest.raises(ConfigError) as error:
        PerturbationOptions(n=0, share=0.0, span=0)
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="unigram or bigram"):
        WordLaw(["a"], order="trigram")
    with pytest.raises(DataError, match="hold none"):
        WordLaw(["", "  \n"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random masked language model that knows eight words."""
    place = tmp_path_factory.mktemp("masked") / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=12, **named).save_pretrained(place)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with scoped_seed(0):
        BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(place)
    return place


def test_a_masked_language_model_fills_the_gaps(folder):
    texts = ["a b c d e f", "a b", "h " * 20]
    keys, options = ["x", "y", "z"], PerturbationOptions()
    filler = MaskedLMFiller(folder, torch.device("cpu"))
    made = perturbed(texts, keys, filler, options, seed=0, number=0)
    stars = perturbed(texts, keys, _Star(), options, seed=0, number=0)
    assert made == perturbed(
        texts, keys, MaskedLMFiller(folder, torch.device("cpu"), batch_size=1), options, seed=0, number=0
    )
    for text, filled, star in zip(texts, made, stars, strict=True):
        for word, new, hole in zip(text.split(), filled.split(), star.split(), strict=True):
            assert new in "abcdefgh"  # no special token
            assert hole == "*" or new == word
    drawn = Counter(perturbed(["a b"], ["y"], filler, options, seed=0, number=n)[0] for n in range(40))
    assert len(drawn) > 20  # a random model is near uniform over 64 pairs


def test_no_masked_language_model_is_said(tmp_path):
    with pytest.raises(ModelError, match="no masked language model in nothing"):
        MaskedLMFiller(tmp_path / "nothing", torch.device("cpu"))
