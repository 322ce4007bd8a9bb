"""Near-duplicates, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from forgetmi.duplicates import (
    difference_hashes,
    grid,
    near_duplicates,
    near_hashes,
    near_sets,
    normalised_words,
)

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


def test_normalised_words():
    assert normalised_words("XXXX-year-old, 45 y.o.; The  Heart\nisn't xxxx.") == (
        "year",
        "old",
        "y",
        "o",
        "the",
        "heart",
        "isn",
        "t",
    )
    assert normalised_words("XXXX 12.") == ()


def jaccard(one, two):
    def shingles(text):
        words = normalised_words(text)
        return set(zip(words, words[1:], words[2:], strict=False)) or {words}

    return len(shingles(one) & shingles(two)) / len(shingles(one) | shingles(two))


def test_no_near_duplicate_is_left_and_none_is_taken_without_a_twin():
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(40):  # each text, with up to four changed words, several times
        words = generator.choice(WORDS, 60).tolist()
        for changes in range(5):
            copy = list(words)
            for place in generator.choice(60, changes, replace=False):
                copy[place] = str(generator.choice(WORDS))
            texts.append(" ".join(copy))
    texts += ["one", "One.", "one two", "one two three", "one two three 4"]
    texts = [texts[i] for i in generator.permutation(len(texts))]
    verdicts = near_duplicates(texts)
    kept = [text for text, repeats in zip(texts, verdicts, strict=True) if not repeats]
    assert max(jaccard(a, b) for a, b in itertools.combinations(kept, 2)) < 0.8
    for i, repeats in enumerate(verdicts):
        earlier = [text for text, other in zip(texts[:i], verdicts, strict=False) if not other]
        assert repeats == any(jaccard(texts[i], text) >= 0.8 for text in earlier)
    assert 60 < len(kept) < len(texts) - 60  # both verdicts are common, so the loop above says something


def test_near_duplicates_at_the_threshold():
    base = [f"w{chr(97 + i)}" for i in range(10)]  # 8 shingles
    assert near_duplicates([" ".join(base), " ".join([*base, "n", "m"])]) == [False, True]  # 8 of 10
    assert near_duplicates([" ".join(base), " ".join([*base, "n", "m", "o"])]) == [False, False]  # 8 of 11


def test_pairs_of_sets_are_those_of_brute_force():
    draw = np.random.default_rng(1)
    base = [tuple(draw.choice(WORDS, 3)) for _ in range(30)]
    sets = []
    for _ in range(80):
        kept = draw.random(30) < draw.choice([0.3, 0.9, 0.95])
        sets.append(frozenset(s for s, keep in zip(base, kept, strict=True) if keep) or frozenset({()}))
    sets = list(dict.fromkeys(sets))
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(sets)), 2)
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
    }
    assert set(near_sets(sets)) == expected and len(expected) > 20
    assert list(near_sets([])) == []


class TestImages:
    def test_the_hash_by_hand(self):
        image = np.zeros((8, 9))
        image[0] = [0, 1, 0, 1, 0, 1, 0, 1, 0]  # brighter than its left neighbour: 1 0 1 0 1 0 1 0
        image[1] = np.arange(9)  # all ones
        (value,) = difference_hashes(grid(image / 8)[None])
        bits = np.unpackbits(np.array([value]).view(np.uint8))
        assert bits[:16].tolist() == [1, 0] * 4 + [1] * 8 and not bits[16:].any()

    def test_a_grid_holds_means(self):
        image = np.arange(16 * 27, dtype=float).reshape(16, 27) / 500
        assert grid(image) == pytest.approx(image.reshape(8, 2, 9, 3).mean(axis=(1, 3)))
        assert grid(np.dstack([image] * 3)) == pytest.approx(grid(image))

    @pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 9), (9, 8), (17, 31), (100, 40, 3)])
    def test_any_size_gives_a_grid_and_a_flat_image_none(self, shape):
        assert grid(np.full(shape, 0.4)) is None
        if np.prod(shape[:2]) > 1:
            assert grid(np.random.default_rng(0).random(shape)).shape == (8, 9)

    def test_brightness_contrast_and_size_change_nothing_and_another_image_does(self):
        draw = np.random.default_rng(0)
        small = draw.random((16, 18))
        large = np.kron(small, np.ones((4, 4)))
        same = [grid(small), grid(0.5 * small + 0.2), grid(large)]
        hashes = difference_hashes(np.array(same))
        assert len(set(hashes.tolist())) == 1
        other = difference_hashes(np.array([grid(draw.random((16, 18)))]))
        assert np.unpackbits((hashes[:1] ^ other).view(np.uint8)).sum() > 10

    def test_close_hashes_are_those_of_brute_force(self):
        draw = np.random.default_rng(2)
        hashes = draw.integers(0, 2**63, 60, dtype=np.uint64) * np.uint64(2) + draw.integers(0, 2, 60, dtype=np.uint64)
        for flips in range(1, 7):  # neighbours at every distance around the limit, anywhere in the 64 bits
            for _ in range(40):
                one = hashes[draw.integers(60)]
                for bit in draw.choice(64, flips, replace=False):
                    one = one ^ (np.uint64(1) << np.uint64(bit))
                hashes = np.append(hashes, one)
        hashes = np.unique(hashes)
        expected = [
            [i, j]
            for i, j in itertools.combinations(range(len(hashes)), 2)
            if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 4
        ]
        assert near_hashes(hashes).tolist() == expected and len(expected) > 150
        assert near_hashes(hashes[:1]).shape == (0, 2) and near_hashes(hashes[:0]).shape == (0, 2)
