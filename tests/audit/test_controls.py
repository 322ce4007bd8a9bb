"""Controls: what is alike is called alike, and a shift of population is not called memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forgetmi.audit.controls import control_attacks, random_half
from forgetmi.audit.measurements import measure_model
from forgetmi.metrics.roc import auc
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World

SIZES = {"forget": 60, "retain": 300, "validation": 200, "test": 300}


def controls(world, change=None):
    original = world.model("original", seed=1, forget_memory=3.0, change=change)
    unlearned = world.model("unlearned", seed=2, change=change)
    retrained = [world.model("retrained", i, seed=10 + i, change=change) for i in range(2)]
    measured = [measure_model(m, world.parts, world.context, QUICK, 3) for m in (original, unlearned, *retrained)]
    return original, control_attacks(measured[0], measured[1], measured[2:], world.parts, QUICK, 3)


def harder(*parts):
    def change(name, logits, labels, rng):
        if name in parts:
            logits[np.arange(len(labels)), labels] -= 2.5
        return logits

    return change


def outcomes(found):
    return {key: control["as_expected"] for key, control in found["attacks"].items()}


def test_alike_groups_are_called_alike():
    original, found = controls(World(1, sizes=SIZES))
    assert outcomes(found) == {"member_vs_member": True, "forget_vs_retain": True, "validation_vs_test": True}
    losses = [original.parts[part]["nll"].astype(float) for part in ("validation", "test")]
    expected = auc(-np.concatenate(losses), np.repeat([True, False], [200, 300]))
    assert found["attacks"]["validation_vs_test"]["auc"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("parts", "seen"),
    [(("validation",), "validation_vs_test"), (("forget",), "forget_vs_retain")],
    ids=["outsiders of two kinds", "forgotten patients are harder"],
)
def test_a_shift_is_seen_where_it_is(parts, seen):
    _, found = controls(World(1, sizes=SIZES), harder(*parts))
    assert outcomes(found) == {key: key != seen for key in outcomes(found)}
    assert found["attacks"][seen]["auc"] < 0.5
    assert found["attacks"][seen]["consequence"].startswith("If not 0.5")


def test_halves_are_of_patients_and_do_not_overlap():
    patients = np.repeat(np.arange(41), 3)
    half = random_half(patients, np.random.default_rng(0))
    assert not set(patients[half]) & set(patients[~half])
    assert np.unique(patients[half]).size == 20


def test_permuted_memberships_are_the_null_of_the_headline():
    _, found = controls(World(1, sizes=SIZES))
    original, unlearned = found["permutation"]["original"], found["permutation"]["unlearned"]
    assert original["p"] < 0.01 < unlearned["p"]
    assert original["low"] < 0.5 < original["high"] < original["value"]
    assert original["mean"] == pytest.approx(0.5, abs=0.01)
    assert original["value"] == pytest.approx(found["positive"]["auc"])
    assert len(found["ceiling"]) == 2


@pytest.mark.parametrize(("level", "audits"), [(0.95, "1 of 60"), (0.9, "1 of 30")])
def test_how_often_halves_differ_by_chance_follows_the_level(level, audits):
    world = World(1, sizes=SIZES)
    options = replace(QUICK, level=level)
    models = [measure_model(world.model("original", seed=i), world.parts, world.context, options, 3) for i in (1, 2)]
    found = control_attacks(models[0], models[1], models, world.parts, options, 3)
    assert audits in found["attacks"]["member_vs_member"]["consequence"]
