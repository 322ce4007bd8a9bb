"""Signals: closed forms, extreme logits, and no influence of batch-mates."""

import numpy as np
import pytest
from scipy.special import softmax

from forgetmi.attacks.membership.signals import entropy, modified_entropy, nll, scaled_logit
from forgetmi.errors import AuditError

WITH_LABELS = (nll, modified_entropy, scaled_logit)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (50, 5)), rng.integers(0, 5, 50)


def test_definitions(batch):
    z, y = batch
    p = softmax(z, axis=1)
    for row in range(50):
        p_y, others = p[row, y[row]], np.delete(p[row], y[row])
        assert nll(z, y)[row] == pytest.approx(-np.log(p_y))
        assert entropy(z)[row] == pytest.approx(-(p[row] * np.log(p[row])).sum())
        by_hand = -(1 - p_y) * np.log(p_y) - (others * np.log(1 - others)).sum()
        assert modified_entropy(z, y)[row] == pytest.approx(by_hand)
        assert scaled_logit(z, y)[row] == pytest.approx(np.log(p_y) - np.log(others.sum()))


def test_modified_entropy_by_hand():
    # p = (1/2, 1/4, 1/4), y = 0: -(1/2) ln(1/2) - 2 (1/4) ln(3/4)
    p = np.array([[0.5, 0.25, 0.25]])
    assert modified_entropy(np.log(p), [0])[0] == pytest.approx(0.5 * np.log(2) - 0.5 * np.log(0.75))
    # y = 1: -(3/4) ln(1/4) - (1/2) ln(1/2) - (1/4) ln(3/4)
    expected = 0.75 * np.log(4) + 0.5 * np.log(2) - 0.25 * np.log(0.75)
    assert modified_entropy(np.log(p), [1])[0] == pytest.approx(expected)
    # two classes: -2 (1 - p_y) ln p_y
    assert modified_entropy(np.log([[0.9, 0.1]]), [1])[0] == pytest.approx(-2 * 0.9 * np.log(0.1))


@pytest.mark.parametrize("signal", WITH_LABELS)
def test_batch_mates_have_no_influence(signal, batch):
    """Indexing `[:, labels]` in modified entropy once gave 1.47 to a sample alone and 5.63 to it in a batch."""
    z, y = batch
    together = signal(z, y)
    alone = np.concatenate([signal(z[k : k + 1], y[k : k + 1]) for k in range(50)])
    assert (together == alone).all()
    order = np.random.default_rng(1).permutation(50)
    assert (signal(z[order], y[order]) == together[order]).all()


def test_extreme_logits_are_exact():
    z = np.array([[1000.0, 0, 0, 0, 0]])
    assert scaled_logit(z, [0])[0] == pytest.approx(1000 - np.log(4), abs=1e-9)  # 998.6137
    assert nll(z, [1])[0] == 1000.0
    assert nll(z, [0])[0] == entropy(z)[0] == modified_entropy(z, [0])[0] == 0.0
    # wrong and certain: -(1) ln p_y - (1) ln(1 - p_0), 1 - p_0 = 4 e^-1000
    assert modified_entropy(z, [1])[0] == pytest.approx(1000 + 1000 - np.log(4))
    # 1 - p_0 = 1e-18 is lost when it is computed from p_0
    near = np.array([[np.log(1e18), 0.0]])
    assert modified_entropy(near, [1])[0] == pytest.approx(2 * np.log(1e18))
    assert modified_entropy(near, [0])[0] == pytest.approx(2e-36, rel=1e-6)


def test_limits():
    uniform = np.zeros((1, 7))
    assert scaled_logit(uniform, [3])[0] == pytest.approx(-np.log(6))
    assert (entropy(uniform)[0], nll(uniform, [3])[0]) == pytest.approx((np.log(7), np.log(7)))
    two = np.array([[1.5, -0.25]])
    assert scaled_logit(two, [0])[0] == pytest.approx(1.75)
    for signal in WITH_LABELS:
        assert signal(two + 40.0, [0])[0] == pytest.approx(signal(two, [0])[0])


def test_multilabel_is_a_sum_of_two_way_choices():
    rng = np.random.default_rng(2)
    z, y = rng.normal(0, 2, (20, 3)), rng.integers(0, 2, (20, 3)).astype(float)
    for signal in WITH_LABELS:
        each = sum(signal(np.stack([np.zeros(20), z[:, c]], axis=1), y[:, c].astype(int)) for c in range(3))
        assert signal(z, y, multilabel=True) == pytest.approx(each)
        unknown = y.copy()
        unknown[:, 1] = np.nan
        without = signal(z[:, [0, 2]], y[:, [0, 2]], multilabel=True)
        assert signal(z, unknown, multilabel=True) == pytest.approx(without)
    each = sum(entropy(np.stack([np.zeros(20), z[:, c]], axis=1)) for c in range(3))
    assert entropy(z, multilabel=True) == pytest.approx(each)
    assert np.isfinite(modified_entropy([[800.0, -800.0]], [[0, 1]], multilabel=True)).all()


def test_inputs_stay_as_they_are(batch):
    z, y = batch
    before = z.copy()
    for signal in WITH_LABELS:
        signal(z, y)
    assert (z == before).all()


def test_refuses():
    with pytest.raises(AuditError, match="1 of 2 records"), np.errstate(divide="ignore"):
        nll(np.log([[1.0, 0.0], [0.5, 0.5]]), [1, 0])
    for signal in WITH_LABELS:
        with pytest.raises(AuditError, match=r"0\.\.1"):
            signal([[0.0, 1.0]], [2])
        with pytest.raises(AuditError, match="class indices"):
            signal([[0.0, 1.0]], [0.5])
        with pytest.raises(AuditError, match="without NaN"):
            signal([[0.0, np.nan]], [0])
        with pytest.raises(AuditError, match="multilabel"):
            signal([[0.0]], [0])
        with pytest.raises(AuditError, match="0, 1 or NaN"):
            signal([[0.0, 1.0]], [[0, 2]], multilabel=True)
