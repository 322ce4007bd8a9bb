"""Groups: who is found in which, and that the table gives no small group away."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.measurements import measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import PartInfo
from forgetmi.audit.subgroups import left_out, subgroups
from forgetmi.errors import AuditError
from forgetmi.metrics.roc import auc
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([(30, 300), (12, 100)], [False, False]),
        ([(3, 50), (20, 50), (15, 50)], [True, False, True]),  # 3 would follow from the total: the smallest goes too
        ([(3, 50), (4, 50), (20, 50), (30, 50)], [True, True, True, False]),  # 3 + 4 is a small total itself
        ([(6, 50), (7, 50), (20, 50)], [True, True, False]),
        ([(0, 90), (5, 90), (50, 90)], [True, True, True]),
        ([(30, 4), (30, 90), (31, 90)], [True, True, False]),  # few test patients
        ([(40, 90)], [False]),
    ],
)
def test_which_groups_are_left_out(counts, expected):
    assert left_out(counts, 10) == expected


def test_no_small_count_follows_by_subtraction():
    rng = np.random.default_rng(0)
    for _ in range(500):
        counts = [tuple(row) for row in rng.integers(0, 40, (rng.integers(1, 7), 2)).tolist()]
        out = left_out(counts, 10)
        hidden = [group for group, gone in zip(counts, out, strict=True) if gone]
        assert all(min(group) >= 10 for group, gone in zip(counts, out, strict=True) if not gone)
        if hidden and not all(out):
            assert len(hidden) > 1
            assert all(sum(column) >= 10 for column in zip(*hidden, strict=True))


LOSS = AuditOptions(attacks=("loss",), published_svc=False, n_bootstrap=200)


def grouped(world, **values):
    """The world with groups: attribute to a function of (part, number of records)."""
    for name, info in world.parts.items():
        groups = {key: make(name, len(info.patients)) for key, make in values.items()}
        world.parts[name] = PartInfo(info.labels, info.patients, groups)
    return world


def measured(world, models, options=QUICK, seed=3):
    return [measure_model(m, world.parts, world.context, options, seed) for m in models]


def halves(name, n):
    return np.where(np.arange(n) % 2 == 0, "even", "odd")


@pytest.fixture(scope="module")
def world():
    return grouped(World(sizes={"forget": 60, "retain": 80, "validation": 20, "test": 300}), half=halves)


def table(world, models, options=QUICK, seed=3):
    original, unlearned, *others = measured(world, models, options, seed)
    return subgroups(original, unlearned, others, world.parts, world.context, options, seed)


def test_memory_that_one_group_alone_keeps_is_found_there(world):
    def even_remembered(name, logits, labels, rng):
        if name == "forget":
            logits[np.arange(0, len(labels), 2), labels[::2]] += 3.0
        return logits

    original, _, retrained = world.trio(4)
    kept = world.model("unlearned", seed=2, change=even_remembered)
    groups = {g["name"]: g for g in table(world, [original, kept, *retrained])["attributes"]["half"]["groups"]}
    assert groups["even"]["reading"] == "remembered"
    assert groups["odd"]["reading"] == "no_difference_shown"
    inside = {part: halves(part, len(world.parts[part].patients)) == "even" for part in ("forget", "test")}
    scores = np.concatenate([-kept.parts[part]["nll"][inside[part]] for part in ("forget", "test")]).astype(float)
    member = np.repeat([True, False], [30, 150])
    assert groups["even"]["unlearned"]["auc"] == pytest.approx(auc(scores, member), abs=1e-12)
    assert (groups["even"]["n_forget_patients"], groups["even"]["n_test_patients"]) == (30, 150)
    right = kept.parts["test"]["logits"].argmax(axis=1) == world.parts["test"].labels
    assert groups["odd"]["unlearned"]["test_accuracy"] == pytest.approx(right[1::2].mean())


def test_found_people_of_the_groups_are_those_of_the_decision_box(world):
    evidence = build_evidence(*world.trio(3), world.parts, world.context, QUICK, 3)
    groups = evidence["subgroups"]["attributes"]["half"]["groups"]
    for role in ("original", "unlearned"):
        box = evidence["people"]["known"][role]
        assert sum(g[role]["found"] for g in groups) == box["found"]
        assert sum(g[role]["accused"] for g in groups) == box["accused"]


def test_all_groups_are_one_family(world):
    family = grouped(
        World(sizes={"forget": 60, "retain": 80, "validation": 20, "test": 300}),
        half=halves,
        third=lambda name, n: np.array(["a", "b", "c"])[np.arange(n) % 3],
    )
    original, unlearned, retrained = family.trio(3)
    found = table(family, [original, unlearned, *retrained])
    groups = [g for t in found["attributes"].values() for g in t["groups"]]
    assert found["n_tests"] == len(groups) == 5
    smallest = min(groups, key=lambda g: g["p"])
    assert smallest["p_adjusted"] == pytest.approx(min(1.0, 5 * smallest["p"]))


def test_a_model_that_never_saw_them_raises_no_alarm_more_often_than_it_may():
    alarms = 0
    for seed in range(25):
        world = grouped(World(seed, sizes={"forget": 40, "retain": 20, "validation": 10, "test": 120}), half=halves)
        retrained = [world.model("retrained", i, seed=100 * seed + 10 + i) for i in range(3)]
        models = [world.model("original", seed=1), world.model("unlearned", seed=100 * seed + 2), *retrained]
        found = table(world, models, LOSS)
        alarms += any(g["reading"] != "no_difference_shown" for g in found["attributes"]["half"]["groups"])
    assert alarms <= 4  # 1.25 expected at 5 %; 5 or more have probability 0.007


def test_a_group_that_is_left_out_leaves_no_trace(world):
    rare = grouped(
        World(sizes={"forget": 60, "retain": 80, "validation": 20, "test": 300}),
        disease=lambda name, n: np.where(np.arange(n) < 4, "rare disease", np.where(np.arange(n) < 30, "flu", "cold")),
    )
    evidence = build_evidence(*rare.trio(3), rare.parts, rare.context, QUICK, 3)
    made = evidence["subgroups"]["attributes"]["disease"]
    assert [g["name"] for g in made["groups"]] == ["cold"]
    assert made["n_left_out"] == 2
    assert "rare disease" not in json.dumps(evidence)
    assert "flu" not in json.dumps(evidence)


def test_one_value_for_all_makes_no_table():
    world = grouped(World(sizes={"retain": 60, "validation": 20, "test": 100}), site=lambda name, n: np.full(n, "A"))
    original, unlearned, retrained = world.trio(2)
    assert table(world, [original, unlearned, *retrained])["attributes"] == {}


def test_groups_must_fit_the_records():
    with pytest.raises(AuditError, match="one value a record"):
        PartInfo(np.zeros(3), np.arange(3), {"sex": np.array(["m", "f"])})
