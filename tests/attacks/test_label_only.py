"""Label-only: the gap attack is its limiting case, and robustness finds what one answer does not."""

import json

import numpy as np
import pytest

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.label_only import LabelOnlyAttack, robustness
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError
from forgetmi.metrics.roc import auc
from forgetmi.options import build_options

FAST = {"n_resamples": 200}


def part(name, correct, **more):
    correct = np.asarray(correct, dtype=float)
    return PartSignals({"correct": correct, **more}, np.array([f"{name}{k:03d}" for k in range(len(correct))]))


def run(forget, test, seed=1, **options):
    return LabelOnlyAttack(**{**FAST, **options}).result(forget, test, np.random.default_rng(seed))


def exactly(rate, n, seed):
    right = round(rate * n)
    return np.random.default_rng(seed).permutation(np.repeat([1.0, 0.0], [right, n - right]))


@pytest.mark.parametrize(("train", "test"), [(47 / 60, 0.65), (1.0, 0.5), (0.4, 0.7), (0.6, 0.6)])
def test_gap_attack_closed_form(train, test):
    """One query: balanced accuracy = 1/2 + (train accuracy - test accuracy) / 2, below 1/2 for negative gaps too."""
    found = run(part("f", exactly(train, 60, 0)), part("t", exactly(test, 100, 1)))
    expected = 0.5 + (train - test) / 2
    for name in ("balanced_accuracy", "balanced_accuracy@gap", "auc"):
        assert found.figures[name].value == pytest.approx(expected, abs=1e-12)
    if train == 47 / 60:
        assert found.figures["balanced_accuracy"].value == pytest.approx(0.566667, abs=1e-6)
    assert "score of 1 on" in found.definition
    assert found.figures["share_called_member"].value == pytest.approx(train)


def test_the_first_query_is_the_gap_attack_whatever_the_others_say():
    rng = np.random.default_rng(0)
    clean = exactly(0.9, 50, 2), exactly(0.6, 80, 3)
    many = [np.column_stack([c, rng.integers(0, 2, (c.size, 6))]) for c in clean]
    one = run(*(part(n, c) for n, c in zip("ft", clean, strict=True)))
    more = run(*(part(n, c) for n, c in zip("ft", many, strict=True)))
    assert more.figures["balanced_accuracy@gap"].value == one.figures["balanced_accuracy"].value == pytest.approx(0.65)
    assert more.figures["balanced_accuracy@gap"].counts == {"tp": 45, "fp": 48, "n_members": 50, "n_nonmembers": 80}
    assert "7 queries (the record and 6 noisy copies)" in more.definition
    assert more.options["n_queries"] == 7
    # queries that say nothing dilute: they do not make the attack better
    assert more.figures["auc"].value < one.figures["auc"].value + 0.05


def test_robustness_finds_what_one_answer_does_not():
    """All are answered right as they are; members lie further from the boundary."""
    rng = np.random.default_rng(1)

    def answers(n, chance):
        return np.column_stack([np.ones(n), rng.random((n, 20)) < chance])

    found = run(part("f", answers(80, 0.8)), part("t", answers(120, 0.6)))
    assert found.figures["balanced_accuracy@gap"].value == 0.5
    assert found.figures["auc"].interval.low > 0.8
    assert found.figures["balanced_accuracy"].value > 0.7


def test_robustness_by_hand():
    assert robustness([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).tolist() == [0.5, 0.25, 1.0]
    assert robustness([1, 0]).tolist() == [1.0, 0.0]
    assert robustness([[0.5, 1.0]]).tolist() == [0.75]  # multilabel: shares of labels
    rng = np.random.default_rng(2)
    answers = rng.integers(0, 2, (30, 5))
    # which copy was which does not matter
    assert robustness(answers).tolist() == robustness(rng.permuted(answers, axis=1)).tolist()
    for wrong in ([[2.0]], [[-0.1]], [[np.nan]], [], np.zeros((2, 2, 2))):
        with pytest.raises(AuditError, match="right 1, wrong 0"):
            robustness(wrong)


def test_ties_count_half_and_share_a_decision():
    found = run(part("f", [[1, 1], [1, 0], [1, 0], [0, 0]] * 5), part("t", [[1, 0], [0, 1], [0, 0], [1, 0]] * 5))
    scores, member = found.scores, found.member
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[member] for b in scores[~member]]
    assert found.figures["auc"].value == pytest.approx(np.mean(pairs)) == auc(scores, member)
    for fold in np.unique(found.fold):
        for score in np.unique(scores):
            assert len(set(found.called[(found.fold == fold) & (scores == score)])) <= 1


def test_nothing_leaks_means_one_half():
    rng = np.random.default_rng(3)
    figures = []
    for seed in range(30):
        chance = rng.random(100)  # every record has its own
        answers = (rng.random((100, 8)) < chance[:, None]).astype(float)
        found = run(part("f", answers[:40]), part("t", answers[40:]), seed=seed)
        figures.append([found.figures[n].value for n in ("auc", "balanced_accuracy", "balanced_accuracy@gap")])
    # sd of an AUC of 40 against 60 is 0.059; of a mean of 30, 0.011
    assert np.mean(figures, axis=0) == pytest.approx([0.5] * 3, abs=0.04)


def test_labels_alone_are_enough_and_order_and_seed_do_not_matter():
    rng = np.random.default_rng(4)
    answers = rng.integers(0, 2, (60, 4)).astype(float), rng.integers(0, 2, (90, 4)).astype(float)
    data = part("f", answers[0]), part("t", answers[1])
    found = run(*data)
    assert "forget_loss" not in found.figures
    assert found.to_dict() == run(*data).to_dict()
    mixed = []
    for p in data:
        order = rng.permutation(len(p.patients))
        mixed.append(PartSignals({"correct": np.asarray(p.signals["correct"])[order]}, p.patients[order]))
    again = run(*mixed)
    for name in ("auc", "balanced_accuracy", "balanced_accuracy@gap"):
        assert again.figures[name].value == found.figures[name].value
    with_loss = run(part("f", answers[0], loss=np.ones(60)), part("t", answers[1], loss=np.ones(90)))
    assert with_loss.figures["forget_loss"].value == 1.0
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "f003" not in text and "t003" not in text


def test_registry_and_refusals():
    attack = build_options(ATTACKS["label_only"], {"folds": 4, **FAST}, where="attacks")
    assert attack.name == "label_only" and attack.folds == 4
    with pytest.raises(AuditError, match="ask alike"):
        run(part("f", np.ones((5, 3))), part("t", np.ones((5, 2))))
    with pytest.raises(AuditError, match="needs the signal 'correct'"):
        run(PartSignals({"loss": [1.0]}, ["a"]), part("t", [1.0]))
    with pytest.raises(AuditError, match="stands in forget and in test"):
        run(part("f", np.ones(5)), part("f", np.ones(5)))
