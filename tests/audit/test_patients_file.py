"""Single patients: the restricted file names them by pseudonym, the evidence counts them and no more."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from forgetmi.audit.evidence import build_audit
from forgetmi.audit.patients import COLUMNS, PatientRisks, restricted_table, risk_section
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World

EXPOSED = 7


def one_remembered(name, logits, labels, rng):
    if name == "forget":
        logits[EXPOSED, labels[EXPOSED]] += 12.0
    return logits


@pytest.fixture(scope="module")
def audit():
    world = World(sizes={"forget": 20, "retain": 60, "validation": 20, "test": 200})
    original, _, retrained = world.trio(2)
    unlearned = world.model("unlearned", seed=2, change=one_remembered)
    return world, build_audit(original, unlearned, retrained, world.parts, world.context, QUICK, 3)


def rows(audit):
    world, made = audit
    n = sum(info.n_patients for info in world.parts.values())
    text = restricted_table(made.forgotten, made.retained, [f"hash-{code:04d}" for code in range(n)])
    return list(csv.DictReader(io.StringIO(text)))


def test_the_exposed_patient_comes_first_and_is_flagged(audit):
    world, made = audit
    found = rows(audit)
    assert tuple(found[0]) == COLUMNS
    assert found[0]["patient"] == f"hash-{world.parts['forget'].patients[EXPOSED]:04d}"
    assert (found[0]["part"], found[0]["records"], found[0]["flagged_unlearned"]) == ("forget", "1", "yes")
    assert float(found[0]["p_known_unlearned"]) == pytest.approx(1 / 201, rel=1e-4)
    assert sum(row["part"] == "forget" for row in found) == 20
    people = made.evidence["people"]["known"]
    for role in ("original", "unlearned"):
        flagged = sum(row[f"flagged_{role}"] == "yes" for row in found if row["part"] == "forget")
        assert flagged == people[role]["found"]


def test_retained_patients_are_listed_only_where_their_risk_rose(audit):
    _, made = audit
    risen = [row for row in rows(audit) if row["part"] == "retain"]
    newly = int((made.retained.flagged[1] & ~made.retained.flagged[0]).sum())
    assert len(risen) == newly
    assert all((row["flagged_original"], row["flagged_unlearned"]) == ("no", "yes") for row in risen)


def test_the_evidence_counts_and_names_nobody(audit):
    _, made = audit
    section = made.evidence["patients"]
    for row in section["known"]:
        counted = (made.forgotten.known <= row["p"] + 1e-12).sum(axis=1).tolist()
        assert [row["original"], row["unlearned"], *row["retrained"]] == counted
        assert row["expected"] == pytest.approx(20 * np.floor(row["p"] * 201 + 1e-9) / 201)
    assert "hash" not in json.dumps(section)
    assert section["file"] == "patients_restricted.csv"


def test_retrained_models_flag_about_as_many_as_expected():
    world = World(4, sizes={"forget": 400, "retain": 20, "validation": 10, "test": 400})
    made = build_audit(*world.trio(2), world.parts, world.context, QUICK, 3)
    tenth = next(row for row in made.evidence["patients"]["known"] if row["p"] == 0.1)
    assert tenth["retrained"] == pytest.approx([tenth["expected"]] * 2, abs=20)  # sd 8


def risks(flagged):
    n = flagged.shape[1]
    flat = np.full(flagged.shape, 0.5)
    return PatientRisks(np.arange(n), np.ones(n, dtype=np.int64), flat, flat, flagged)


@pytest.mark.parametrize(("newly", "told"), [(3, (None, None)), (0, (20, 0)), (15, (35, 15))])
def test_a_small_count_is_not_told_and_does_not_follow(newly, told):
    flagged = np.zeros((3, 100), dtype=bool)
    flagged[:, :20] = True
    flagged[1:, 20 : 20 + newly] = True
    parts = {"test": World(sizes={"test": 50}).parts["test"]}
    section = risk_section(risks(flagged[:, :30]), risks(flagged), parts, QUICK)["retained"]
    assert section["flagged_before"] == 20
    assert (section["flagged_after"], section["newly_flagged"]) == told


@pytest.mark.parametrize("before", range(0, 40, 3))
@pytest.mark.parametrize("newly", [0, 3, 15])
@pytest.mark.parametrize("gone", [0, 4, 9, 14, 33])
def test_no_small_count_follows_from_the_other_three(before, newly, gone):
    if gone > before:
        return
    flagged = np.zeros((3, 100), dtype=bool)
    flagged[0, :before] = True
    flagged[1, gone:before] = flagged[1, 50 : 50 + newly] = True
    parts = {"test": World(sizes={"test": 50}).parts["test"]}
    section = risk_section(risks(flagged[:, :30]), risks(flagged), parts, QUICK)["retained"]
    told = [section[key] for key in ("flagged_before", "flagged_after", "newly_flagged", "no_longer_flagged")]
    assert told.count(None) != 1
    for value, true in zip(told, (before, before - gone + newly, newly, gone), strict=True):
        assert value is None or (value == true and not 0 < value < QUICK.min_cell)


def test_few_patients_have_no_spread(audit):
    world, _ = audit
    section = risk_section(
        risks(np.zeros((3, 9), dtype=bool)), risks(np.zeros((3, 50), dtype=bool)), world.parts, QUICK
    )
    assert section["known"] == section["marked"] == []
    assert "fewer than 10" in section["reason"]
