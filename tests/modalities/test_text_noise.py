"""Text noise: invariants of every kind of noise, on made-up texts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetmi.errors import ConfigError
from forgetmi.modalities.text_noise import TextNoise, perturb_text
from forgetmi.options import build_options

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=12)
DISTINCT = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=12, unique=True)
SEEDS = st.integers(0, 2**31)
FEW = settings(max_examples=60, deadline=None)


def noisy(text, seed=0, **options):
    return perturb_text(text, TextNoise(**options), torch.Generator().manual_seed(seed))


def edit_distance(a, b):
    """Optimal string alignment (insert, delete, substitute, swap of neighbours), by the textbook table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            steps = [table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1])]
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                steps.append(table[i - 2][j - 2] + 1)
            table[i][j] = min(steps)
    return table[-1][-1]


@given(st.text(), SEEDS)
@FEW
def test_item_8_noise_off_is_the_identity_even_of_whitespace(text, seed):
    assert noisy(text, seed, level=0) == text


@given(st.text(max_size=60), SEEDS, st.floats(0, 1))
@FEW
def test_any_text_survives_and_the_same_generator_gives_the_same_noise(text, seed, level):
    options = {"level": level, "keywords": ("a", "..."), "synonyms": {"b": "c"}}
    result = noisy(text, seed, **options)
    assert result == noisy(text, seed, **options)
    assert bool(result.split()) == bool(text.split())  # at least one word stays


@given(WORDS, SEEDS)
@FEW
def test_row_8_shuffle_preserves_the_multiset(words, seed):
    """The published shuffle swapped in the list it iterated and appended the old word: doubles and losses."""
    result = noisy(" ".join(words), seed, level=1, kinds=("word",), word_operations=("shuffle",))
    assert Counter(result.split()) == Counter(words)


def test_shuffle_does_move_words():
    text = " ".join("abcdefghij")
    assert any(noisy(text, s, level=1, kinds=("word",), word_operations=("shuffle",)) != text for s in range(3))


@given(WORDS, SEEDS)
@FEW
def test_row_8_repeat_gives_exactly_two_copies(words, seed):
    """The published code emitted three."""
    result = noisy(" ".join(words), seed, level=1, kinds=("word",), word_operations=("repeat",))
    assert result.split() == [word for word in words for _ in range(2)]


@given(DISTINCT, SEEDS, st.floats(0, 1))
@FEW
def test_row_8_words_come_zero_one_or_two_times_under_all_operations(words, seed, level):
    counts = Counter(noisy(" ".join(words), seed, level=level, kinds=("word",)).split())
    assert set(counts) <= set(words) and max(counts.values()) <= 2


@given(WORDS, SEEDS)
@FEW
def test_delete_keeps_at_least_one_word(words, seed):
    result = noisy(" ".join(words), seed, level=1, kinds=("word",), word_operations=("delete",))
    assert result == words[-1]


def test_the_share_of_changed_words_is_the_level():
    text = " ".join(f"w{i}" for i in range(4000))
    kept = len(noisy(text, level=0.3, kinds=("word",), word_operations=("delete",)).split())
    assert kept / 4000 == pytest.approx(0.7, abs=0.03)
    plain = set(noisy(text, level=0.3, kinds=("char",)).split()) & set(text.split())
    assert 0.6 < len(plain) / 4000 < 0.85


def test_operations_are_drawn_uniformly():
    words = [f"w{i}" for i in range(6000)]
    counts = Counter(noisy(" ".join(words), level=1, kinds=("word",)).split())
    assert sum(counts[w] == 0 for w in words) / 6000 == pytest.approx(1 / 3, abs=0.03)
    assert sum(counts[w] == 2 for w in words) / 6000 == pytest.approx(1 / 3, abs=0.03)


@given(WORDS, SEEDS, st.sampled_from(["insert", "delete", "substitute", "swap"]))
@FEW
def test_char_level_changes_each_word_by_one_operation(words, seed, operation):
    longer = [word + "xyz" for word in words]  # at least four letters: no word vanishes
    result = noisy(" ".join(longer), seed, level=1, kinds=("char",), char_operations=(operation,)).split()
    assert len(result) == len(longer)
    growth = {"insert": 1, "delete": -1, "substitute": 0, "swap": 0}[operation]
    for before, after in zip(longer, result, strict=True):
        assert len(after) - len(before) == growth
        if operation == "swap":
            assert Counter(after) == Counter(before) and edit_distance(before, after) <= 1
        else:
            assert edit_distance(before, after) == 1


def test_one_letter_words_are_safe_at_char_level():
    assert noisy("a", level=1, kinds=("char",), char_operations=("swap",)) == "a"
    assert noisy("a", level=1, kinds=("char",), char_operations=("delete",)) == "a"  # the last word stays
    assert noisy("a bcd", 1, level=1, kinds=("char",), char_operations=("delete",)) in {"cd", "bd", "bc"}


@given(st.lists(st.sampled_from(["edema", "Edema,", "chest", "(lung)", "clear", "is"]), max_size=15), SEEDS)
@FEW
def test_item_8_and_row_7_at_most_two_keywords_are_replaced(words, seed):
    """The published code could not run at all: it unpacked pairs from a list of strings."""
    keywords = ("edema", "chest", "lung")
    result = noisy(" ".join(words), seed, level=0, keywords=keywords, kinds=("keywords",)).split()
    found = sum(any(k in w.lower() for k in keywords) for w in words)
    assert len(result) == len(words)
    assert sum("[NOISE]" in w for w in result) == min(2, found)
    for before, after in zip(words, result, strict=True):
        assert after == before or after == before.replace(before.strip(",()"), "[NOISE]")


def test_every_found_keyword_can_be_chosen():
    results = {noisy("edema chest lung", s, level=0, keywords=("edema", "chest", "lung")) for s in range(40)}
    assert results == {"[NOISE] [NOISE] lung", "[NOISE] chest [NOISE]", "edema [NOISE] [NOISE]"}


def test_max_keywords_and_replacement_are_options():
    options = {"level": 0, "keywords": ("a",), "kinds": ("keywords",)}
    assert noisy("a a a", **options, max_keywords=0) == "a a a"
    assert noisy("a a a", **options, max_keywords=3, replacement="X") == "X X X"


def test_row_9_at_most_one_synonym_is_swapped():
    synonyms = {"large": "big", "small": "little"}
    results = [noisy("Large, small heart", s, level=0, synonyms=synonyms, kinds=("word",)) for s in range(30)]
    assert set(results) == {"big, small heart", "Large, little heart"}


def test_row_10_the_coin_is_fair_and_tossed_at_each_call():
    generator, noise = torch.Generator().manual_seed(0), TextNoise(level=1, word_operations=("repeat",))
    results = [perturb_text("abcdef", noise, generator) for _ in range(400)]
    word_level = sum(result == "abcdef abcdef" for result in results)
    assert 160 <= word_level <= 240  # 200 +- 10


def test_kinds_switch_levels_off():
    assert noisy("some text here", level=1, keywords=("text",), kinds=()) == "some text here"
    assert noisy("some text here", level=1, keywords=("text",), kinds=("keywords",)) == "some [NOISE] here"


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TextNoise(level=1.5, max_keywords=-1, kinds=("words",), word_operations=(), char_operations=("swop",))
    assert len(caught.value.problems) == 5
    assert "Did you mean 'word'" in str(caught.value)
    with pytest.raises(ConfigError):
        TextNoise(level=float("nan"))


def test_options_come_from_a_mapping():
    made = build_options(TextNoise, {"level": 0.2, "keywords": ["a"], "synonyms": {"a": "b"}}, where="noise")
    assert made == TextNoise(level=0.2, keywords=("a",), synonyms={"a": "b"})


def test_the_global_random_state_is_not_touched():
    state = torch.get_rng_state()
    noisy("heart is large", 5, level=1, keywords=("heart",), synonyms={"large": "big"})
    assert torch.equal(torch.get_rng_state(), state)
