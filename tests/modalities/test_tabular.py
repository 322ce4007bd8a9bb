"""Rows: hand-worked numbers, a mask for what is missing, levels that training did not know."""

from __future__ import annotations

import json
import math

import pytest
import torch

from forgetmi.errors import ConfigError, DataError
from forgetmi.inputs import TabularInput
from forgetmi.modalities import build_modality
from forgetmi.modalities.tabular import TabularModality, TabularNoise

# age: mean 50, standard deviation 10; sex has the levels F and M.
ROWS = TabularModality({"age": (50, 10), "bmi": (25, 5)}, {"sex": ("F", "M")})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"age": 70, "bmi": "20", "sex": "M"}, [2, -1, 0, 0, 0, 1, 0]),
        ({"age": "70.0", "sex": "X", "other": 3}, [2, 0, 0, 1, 0, 0, 1]),  # bmi missing, sex of an unknown level
        ({"age": " NaN ", "bmi": math.nan, "sex": None}, [0, 0, 1, 1, 0, 0, 0]),
        ({"age": 9999, "bmi": -9999, "sex": "F"}, [10, -10, 0, 0, 1, 0, 0]),  # clipped
    ],
)
def test_layout_by_hand(row, expected):
    assert ROWS.prepare(row).tolist() == expected
    assert ROWS.features == 7


def test_missing_is_not_the_mean_and_an_unknown_level_is_not_missing():
    mean, missing = ROWS.prepare({"age": 50, "sex": "X"}), ROWS.prepare({"sex": "X"})
    assert mean[0] == missing[0] and not torch.equal(mean, missing)
    assert not torch.equal(ROWS.prepare({"sex": "X"}), ROWS.prepare({}))
    assert torch.equal(ROWS.blank(), ROWS.prepare({}))


def test_statistics_are_those_of_the_rows_given_and_of_present_values_only():
    rows = [{"age": "40", "sex": 0}, {"age": "60", "sex": 1.0}, {"age": "", "sex": "1"}, {"sex": "0"}, {"odd": "x"}]
    fitted = TabularModality.fit(rows, categories=("sex",), min_count=2, min_share=0.4)
    assert fitted.numeric == {"age": (50.0, 10.0)}  # population standard deviation of 40 and 60
    assert fitted.categories == {"sex": ("0", "1")}  # "0", 0, "1" and 1.0 are two levels; `odd` is too rare
    assert TabularModality.fit(rows, columns=("age",)).categories == {}


def test_words_make_a_category_and_rare_levels_are_unknown():
    rows = [{"ward": "icu"}] * 5 + [{"ward": "vip 12"}]
    fitted = TabularModality.fit(rows)
    assert fitted.categories == {"ward": ("icu",)}
    assert "vip" not in json.dumps(fitted.to_config())
    assert fitted.prepare({"ward": "vip 12"}).tolist() == [0, 1]


def test_a_constant_column_stays_finite():
    assert TabularModality.fit([{"a": 3}, {"a": 3}]).prepare({"a": 4}).tolist() == [1, 0]


def test_noise_moves_present_numbers_only_and_has_the_given_scale():
    wide = TabularModality({f"c{i:04d}": (0, 1) for i in range(4000)}, {"sex": ("F",)})
    row = {f"c{i:04d}": 1 for i in range(2000)} | {"sex": "F"}
    clean = wide.prepare(row)
    noisy = wide.perturb(None, clean, {"sd": 0.5}, generator())
    assert torch.equal(noisy[2000:], clean[2000:])  # missing numbers, flags and the level
    moved = noisy[:2000] - clean[:2000]
    assert abs(moved.mean()) < 0.05 and moved.std().item() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(wide.perturb(None, clean, {"sd": 0}, generator()), clean)
    assert torch.equal(wide.perturb(None, clean, None, generator(3)), wide.perturb(None, clean, None, generator(3)))
    assert wide.default_noise == TabularNoise(0.1)


def test_it_is_stored_and_built_again():
    again = build_modality(json.loads(json.dumps(ROWS.to_config())))
    row = {"age": 61, "bmi": None, "sex": "M"}
    assert torch.equal(again.prepare(row), ROWS.prepare(row))
    assert again.to_config() == ROWS.to_config()
    assert ROWS.collate([ROWS.blank(), ROWS.prepare(row)]).shape == (2, 7)


def test_values_that_cannot_be_used():
    with pytest.raises(DataError, match="'age' holds what is no finite number") as caught:
        ROWS.prepare({"age": "Mrs Smith"})
    assert "Smith" not in caught.value.public
    for bad in ("inf", 1e400):
        with pytest.raises(DataError):
            ROWS.prepare({"age": bad})
    with pytest.raises(DataError, match="given as list"):
        ROWS.prepare([1, 2])


@pytest.mark.parametrize(
    ("numeric", "categories", "message"),
    [
        ({}, {}, "at least one column"),
        ({"a": (0, 0)}, {}, "positive standard deviation"),
        ({"a": (0, 1)}, {"a": ("x",)}, "both numeric and categorical"),
        ({}, {"a": ("x", "x")}, "level is repeated"),
    ],
)
def test_settings_that_cannot_work(numeric, categories, message):
    with pytest.raises(ConfigError, match=message):
        TabularModality(numeric, categories)


def test_input_options_fit_on_the_training_values_and_refuse_nonsense():
    built = TabularInput(min_count=1).build([{"a": 1, "b": "x"}, {"a": 3, "b": "y"}])
    assert built.numeric == {"a": (2.0, 1.0)} and built.categories == {"b": ("x", "y")}
    with pytest.raises(DataError, match="without a value in the training split: c"):
        TabularInput(columns=("c",)).build([{"a": 1}])
    with pytest.raises(DataError, match="no tabular column"):
        TabularInput().build([])
    with pytest.raises(ConfigError) as caught:
        TabularInput(min_share=2, min_count=0, clip=0)
    assert len(caught.value.problems) == 3
