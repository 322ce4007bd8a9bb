"""Every attack figure of the evidence can be computed again from its arrays."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

from forgetmi.audit.arrays import differing, load_arrays, packed, recompute, section
from forgetmi.audit.evidence import build_audit
from forgetmi.errors import AuditError
from tests.audit.conftest import OPTIONS
from tests.audit.synthetic import World


@pytest.fixture(scope="module")
def made():
    world = World(sizes={"forget": 25, "retain": 120, "validation": 40, "test": 150}, records_per_patient=2)
    return build_audit(*world.trio(3), world.parts, world.context, OPTIONS, 5)


def test_every_figure_is_found_again(made, tmp_path):
    evidence = made.evidence
    (tmp_path / evidence["arrays"]["file"]).write_bytes(made.arrays)
    arrays = load_arrays(tmp_path, evidence)
    assert len(arrays) == evidence["arrays"]["n_arrays"]
    found = recompute(evidence, arrays)
    assert differing(evidence, found) == []
    models = {"original": evidence["models"]["original"], "unlearned": evidence["models"]["unlearned"]}
    models |= {f"retrained/{i}": model for i, model in enumerate(evidence["models"]["retrained"])}
    shown = {
        f"models/{pointer}/attacks/{attack}/{name}/value"
        for pointer, model in models.items()
        for attack, figures in model["attacks"].items()
        for name, figure in figures.items()
        if figure["value"] is not None
    }
    assert shown <= set(found), shown - set(found)
    assert {f"roc/{attack}/original/tp" for attack in evidence["attacks"]} <= set(found)
    assert "people/marked/retrained/2/found" in found


def test_a_figure_that_was_changed_is_noticed(made):
    evidence = copy.deepcopy(made.evidence)
    with np.load(io.BytesIO(made.arrays)) as archive:
        found = recompute(evidence, {name: archive[name] for name in archive.files})
    evidence["models"]["unlearned"]["attacks"]["loss"]["auc"]["value"] += 1e-6
    assert differing(evidence, found) == ["models/unlearned/attacks/loss/auc/value"]


def test_another_file_is_refused(made, tmp_path):
    with pytest.raises(AuditError, match="missing"):
        load_arrays(tmp_path, made.evidence)
    (tmp_path / "evidence_arrays.npz").write_bytes(made.arrays[:-1] + b"x")
    with pytest.raises(AuditError, match="hash differs"):
        load_arrays(tmp_path, made.evidence)


def test_the_same_audit_gives_the_same_bytes_and_patients_are_numbers(made):
    world = World(sizes={"forget": 25, "retain": 120, "validation": 40, "test": 150}, records_per_patient=2)
    again = build_audit(*world.trio(3), world.parts, world.context, OPTIONS, 5)
    assert again.arrays == made.arrays
    assert again.evidence == made.evidence
    assert section(b"x", 1)["sha256"] != made.evidence["arrays"]["sha256"]
    assert callable(packed)
