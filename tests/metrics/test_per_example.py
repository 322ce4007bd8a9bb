"""A value of each record and their figure."""

from __future__ import annotations

import numpy as np
import pytest

from forgetmi.errors import AuditError
from forgetmi.metrics.per_example import PerExample


def made(values: list[float]) -> PerExample:
    return PerExample("m", np.array(values), "remembers_above", "It is {value:.2f}.")


def test_the_figure_is_the_mean_of_those_that_have_a_value() -> None:
    figure = made([0.0, 1.0, np.nan, 0.5]).figure(np.arange(4), np.random.default_rng(0))
    assert figure.value == 0.5
    assert figure.n_samples == 3 and figure.n_patients == 3
    assert figure.counts == {"n_without_value": 1}
    assert figure.sentence == "It is 0.50."
    assert figure.interval.low is not None and 0.0 <= figure.interval.low <= 0.5


def test_without_any_value_there_is_a_reason_and_no_number() -> None:
    figure = made([np.nan, np.nan]).figure(np.arange(2), np.random.default_rng(0))
    assert figure.value is None and figure.reason is not None and "no record has a value" in figure.reason
    assert figure.counts == {"n_without_value": 2}


def test_a_patients_records_are_resampled_together() -> None:
    values = [0.0] * 10 + [1.0] * 10
    alone = made(values).figure(np.arange(20), np.random.default_rng(0)).interval
    together = made(values).figure(np.repeat([0, 1, 2, 3], 5), np.random.default_rng(0)).interval
    assert together.high - together.low > alone.high - alone.low  # type: ignore[operator]


@pytest.mark.parametrize("values", [[], [[1.0]], [np.inf]])
def test_what_is_no_value_a_record_is_refused(values: list[float]) -> None:
    with pytest.raises(AuditError):
        made(values)


def test_patients_must_fit() -> None:
    with pytest.raises(AuditError, match="patients"):
        made([1.0, 0.0]).figure(np.arange(3), np.random.default_rng(0))
