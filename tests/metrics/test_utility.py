"""Utility against scikit-learn and closed forms."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from forgetmi.errors import AuditError
from forgetmi.metrics.utility import expected_calibration_error, multiclass_utility, multilabel_utility


@pytest.fixture
def multiclass():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    logits = rng.normal(size=(120, 4)) + 1.5 * np.eye(4)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, labels, np.repeat(np.arange(40), 3)


def run(p, labels, patients, **options):
    kind = options.pop("kind", multiclass_utility)
    settings = {"forgotten": False, "n_resamples": 200, **options}
    return kind(p, labels, patients, np.random.default_rng(1), **settings)


def test_multiclass_equals_scikit_learn(multiclass):
    p, y, patients = multiclass
    utility = run(p, y, patients, ordinal=True)
    guess = p.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "auc": sk.roc_auc_score(y, p, multi_class="ovr"),
        "macro_f1": sk.f1_score(y, guess, average="macro"),
        "cross_entropy": sk.log_loss(y, p),
        "brier": np.mean([((row - np.eye(4)[label]) ** 2).sum() for row, label in zip(p, y, strict=True)]),
        "quadratic_kappa": sk.cohen_kappa_score(y, guess, weights="quadratic"),
        "mean_absolute_error": sk.mean_absolute_error(y, guess),
    }
    for name, value in expected.items():
        figure = utility.figures[name]
        assert figure.value == pytest.approx(value, abs=1e-12), name
        assert figure.interval.contains(value), name
        assert (figure.n_patients, figure.n_samples) == (40, 120)
    assert utility.figures["ece"].interval.low is None
    assert utility.class_counts == tuple(np.bincount(y))
    assert utility.absent_classes == ()
    json.dumps(utility.to_dict(), allow_nan=False)


def test_resampled_averages_equal_copied_out_records(multiclass):
    """The weighted forms behind the intervals, against scikit-learn with sample weights."""
    from forgetmi.metrics import utility as module

    p, y, _ = multiclass
    guess, rng = p.argmax(1), np.random.default_rng(2)
    weights = rng.integers(0, 3, (5, 120)).astype(float)
    f1 = module._macro_f1(y[:, None] == np.arange(4), guess[:, None] == np.arange(4))(weights)
    kappa = module._quadratic_kappa(y, guess, 4)(weights)
    for row, weight in enumerate(weights):
        assert f1[row] == pytest.approx(sk.f1_score(y, guess, average="macro", sample_weight=weight))
        assert kappa[row] == pytest.approx(sk.cohen_kappa_score(y, guess, weights="quadratic", sample_weight=weight))


def test_absent_classes_are_named_and_left_out(multiclass):
    p, y, patients = multiclass
    y = np.where(y == 3, 0, y)
    utility = run(p, y, patients)
    assert utility.absent_classes == (3,)
    assert utility.class_counts[3] == 0
    expected = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(3)])
    assert utility.figures["auc"].value == pytest.approx(expected)
    assert "3 classes" in utility.figures["auc"].sentence
    one = run(p, np.zeros(120, dtype=int), patients, ordinal=True)
    assert one.figures["auc"].value is None
    assert "one value" in one.figures["auc"].reason
    assert one.figures["macro_f1"].value is not None
    json.dumps(one.to_dict(), allow_nan=False)


def test_kappa_of_one_class_is_absent():
    p = np.tile([0.9, 0.1], (6, 1))
    utility = run(p, np.zeros(6, dtype=int), np.arange(6), ordinal=True)
    assert utility.figures["quadratic_kappa"].value is None
    assert utility.figures["mean_absolute_error"].value == 0.0


def test_a_class_of_one_patient_is_counted_in_the_interval(multiclass):
    p, y, patients = multiclass
    y = np.where(y == 3, 0, y)
    y[:3] = 3  # one patient's three records
    figure = run(p, y, patients, n_resamples=1000).figures["auc"]
    assert figure.interval.n_undefined / 1000 == pytest.approx((39 / 40) ** 40, abs=0.06)


def test_direction_depends_on_the_part(multiclass):
    test, forget = run(*multiclass), run(*multiclass, forgotten=True)
    assert test.figures["accuracy"].direction == "useful_above"
    assert test.figures["cross_entropy"].direction == "useful_below"
    assert forget.figures["accuracy"].direction == "remembers_above"
    assert forget.figures["cross_entropy"].direction == "remembers_below"


def test_calibration_closed_forms():
    assert expected_calibration_error([1.0] * 4, [1, 1, 1, 1]) == 0.0
    assert expected_calibration_error([1.0] * 4, [1, 0, 1, 0]) == pytest.approx(0.5)
    # bins (0.5, 0.6] and (0.9, 1]: 3/5 * |1/3 - 0.6| + 2/5 * |1 - 0.95|
    confidence, correct = [0.6, 0.6, 0.6, 0.95, 0.95], [1, 0, 0, 1, 1]
    assert expected_calibration_error(confidence, correct, 10) == pytest.approx(0.6 * (0.6 - 1 / 3) + 0.4 * 0.05)
    # one bin: |accuracy - mean confidence|, where errors of opposite sign cancel
    assert expected_calibration_error(confidence, correct, 1) == pytest.approx(abs(0.6 - 0.74))
    assert expected_calibration_error([0.0, 1.0], [0, 1], 3) == 0.0
    # perfectly calibrated on average: 3 of 4 right at 0.75
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0.0)
    perfect = run(np.eye(3), np.arange(3), np.arange(3))
    assert perfect.figures["brier"].value == perfect.figures["ece"].value == perfect.figures["cross_entropy"].value == 0
    uniform = run(np.full((8, 4), 0.25), np.arange(8) % 4, np.arange(8))
    assert uniform.figures["brier"].value == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert uniform.figures["cross_entropy"].value == pytest.approx(np.log(4))


def test_a_probability_rounded_to_zero_needs_the_loss_from_logits():
    p, labels = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])
    with pytest.raises(AuditError, match="1 of 2 records have an infinite"):
        run(p, labels, np.arange(2))
    assert run(p, labels, np.arange(2), nll=[998.0, 2.0]).figures["cross_entropy"].value == 500.0


def test_multilabel_equals_scikit_learn():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, (90, 3)).astype(float)
    p = np.clip(rng.random((90, 3)) * 0.6 + 0.4 * y, 0.01, 0.99)
    utility = run(p, y, np.repeat(np.arange(30), 3), kind=multilabel_utility)
    expected = {
        "accuracy": ((p >= 0.5) == y).mean(),
        "auc": sk.roc_auc_score(y, p, average="macro"),
        "macro_f1": sk.f1_score(y, p >= 0.5, average="macro"),
        "cross_entropy": sum(sk.log_loss(y[:, c], p[:, c]) for c in range(3)),
        "brier": np.mean((p - y) ** 2),
    }
    for name, value in expected.items():
        assert utility.figures[name].value == pytest.approx(value, abs=1e-12), name
        assert utility.figures[name].interval.contains(value), name
    # where a label is unknown, its prediction has no influence
    y[::3, 1] = np.nan
    known = run(p, y, np.arange(90), kind=multilabel_utility)
    moved = p.copy()
    moved[::3, 1] = 0.001
    assert run(moved, y, np.arange(90), kind=multilabel_utility).to_dict() == known.to_dict()
    kept = ~np.isnan(y)
    assert known.figures["accuracy"].value == pytest.approx(((p >= 0.5) == y)[kept].mean())


def test_multilabel_without_both_values():
    y = np.array([[1.0, 0.0], [1.0, 1.0], [np.nan, 0.0]])
    p = np.array([[0.9, 0.2], [0.8, 0.9], [0.1, 0.1]])
    utility = run(p, y, np.arange(3), kind=multilabel_utility)
    assert utility.absent_classes == (0,)
    assert utility.figures["auc"].value == 1.0
    none = run(p[:, :1], y[:, :1], np.arange(3), kind=multilabel_utility)
    assert none.figures["auc"].value is None
    assert none.figures["macro_f1"].value is None


@pytest.mark.parametrize(
    ("p", "labels", "message"),
    [
        ([[0.5, 0.6]], [0], "1 of 1 rows are not probabilities"),
        ([[np.nan, 1.0]], [0], "not probabilities"),
        ([[0.5, 0.5]], [2], "class indices in 0..1"),
        ([[0.5, 0.5]], [-1], "class indices"),
        ([[0.5, 0.5]], [0.0], "class indices"),
        ([0.5, 0.5], [0], r"\[records, classes\]"),
    ],
)
def test_refuses(p, labels, message):
    with pytest.raises(AuditError, match=message):
        run(p, np.asarray(labels), np.arange(1))


def test_refuses_other_lengths(multiclass):
    p, y, patients = multiclass
    with pytest.raises(AuditError, match="119 patients for 120 records"):
        run(p, y, patients[:-1])
    with pytest.raises(AuditError, match="one value a record"):
        run(p, y, patients, nll=np.zeros(3))
