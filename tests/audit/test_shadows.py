"""Evidence from shadow models whose truth is known: who was in which, and how well each remembers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forgetmi.attacks.membership import signals
from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import REFERENCE_PARTS, ReferenceScores
from forgetmi.errors import AuditError
from tests.audit.synthetic import World

SIZES = {"forget": 24, "retain": 60, "validation": 40, "test": 36}
OPTIONS = AuditOptions(attacks=("loss", "lira", "u_lira"), published_svc=False, n_bootstrap=200)


def shadows(world, kind, n_shadows=32, memory=0.0, seed=0, coins=0):
    """Shadow models in twins, each record's patient in by a coin; ``memory`` is added where the record was in."""
    rng, toss = np.random.default_rng([seed, 3]), np.random.default_rng([coins, 4])
    heads = {part: toss.random((n_shadows // 2, world.sizes[part])) < 0.5 for part in ("forget", "test")}
    parts = {}
    for part in REFERENCE_PARTS:
        info, base = world.parts[part], world.base[part]
        n, rows = len(info.labels), np.arange(len(info.labels))
        seen = np.zeros((n_shadows, n), dtype=np.bool_)
        if part in heads:
            seen[::2] = heads[part][:, info.patients - info.patients.min()]
            seen[1::2] = ~seen[::2]
        logits = base + rng.normal(0, 0.5, (n_shadows, *base.shape))
        logits[:, rows, info.labels] += memory * seen
        nll = np.stack([signals.nll(z, info.labels) for z in logits])
        parts[part] = {"nll": nll, "logits": logits, "seen": seen}
    return ReferenceScores(kind, parts)


@pytest.fixture(scope="module")
def world():
    return World(seed=11, sizes=SIZES)


def evidence(world, trained=2.0, unlearned=0.0, options=OPTIONS, n_shadows=32, **trio):
    references = {
        "shadows": shadows(world, "shadows", n_shadows, trained, seed=1),
        "unlearned_shadows": shadows(world, "unlearned_shadows", n_shadows, unlearned, seed=2),
    }
    return build_evidence(*world.trio(3, **trio), world.parts, world.context, options, 5, references)


@pytest.fixture(scope="module")
def forgotten(world):
    return evidence(world)


def test_what_was_made_is_named_and_all_of_it_is_json(forgotten):
    assert forgotten["references"] == {"retrained": 3, "shadows": 32, "unlearned_shadows": 32}
    json.dumps(forgotten, allow_nan=False)


def test_training_exposes_and_unlearning_does_not(forgotten):
    exposure = forgotten["shadows"]["exposure"]
    assert exposure["n_in"] == exposure["n_out"] == 16
    at = exposure["thresholds"].index(0.9)
    assert exposure["trained"][at] > 0.9
    # 2.0 over a spread of about 0.7 of phi: binormal AUC of about Phi(2 / 1) at the least
    assert exposure["unlearned"][at] == exposure["unlearned_worse"][at] == 0.0
    assert 0.0 < exposure["by_chance"][0] < 0.3
    assert abs(exposure["unlearned"][0] - exposure["by_chance"][0]) < 0.3


def test_the_one_run_audit_finds_the_coins_before_and_guesses_after(forgotten):
    one_run = forgotten["epsilon"]["one_run"]
    assert one_run["before"]["n_canaries"] == 60 and one_run["before"]["guesses"] == 30
    assert one_run["before"]["correct"] >= 25 and one_run["before"]["p_value"] < 1e-3
    assert 1.0 < one_run["before"]["bound"]["value"] <= one_run["before"]["bound"]["most_certifiable"]
    assert one_run["after"]["correct"] <= 24
    assert one_run["after"]["bound"]["value"] < 0.3


def test_forgetting_quality_is_near_what_retraining_scores_and_far_from_it_where_memory_stays(world, forgotten):
    good = forgotten["shadows"]["forgetting_quality"]
    assert good["n_unlearned"] == good["n_retrained"] == 16 and good["n_half"] == 8
    assert good["score_at_ceiling"] == pytest.approx(good["ceiling"], abs=0.15)
    kept = evidence(world, unlearned=4.0)["shadows"]["forgetting_quality"]
    assert kept["score_at_ceiling"] < kept["ceiling"] - 0.1
    assert kept["shortfall"]["low"] > 0


def test_over_forgetting_is_seen_in_single_patients(world):
    exposure = evidence(world, unlearned=-2.0)["shadows"]["exposure"]
    at = exposure["thresholds"].index(0.9)
    assert exposure["unlearned"][at] == 0.0 and exposure["unlearned_worse"][at] > 0.8


def test_groups_too_small_to_publish_are_not_published(world, forgotten):
    view = forgotten["shadows"]["vulnerability"]
    assert view["n_patients"] == 24
    for group in (view["vulnerable"], view["protected"]):
        assert group["n_patients"] is None or group["n_patients"] == 0 or group["n_patients"] >= 10
    few = AuditOptions(attacks=("loss", "lira"), published_svc=False, n_bootstrap=200, min_cell=30)
    assert "fewer than 30" in evidence(world, options=few)["shadows"]["exposure"]["reason"]


def test_without_shadow_models_there_is_no_such_section(world):
    options = AuditOptions(attacks=("loss",), published_svc=False, n_bootstrap=200)
    found = build_evidence(*world.trio(3), world.parts, world.context, options, 5)
    assert found["shadows"] is None and found["epsilon"]["one_run"] is None
    needs = AuditOptions(attacks=("loss", "u_lira"), published_svc=False, n_bootstrap=200)
    with pytest.raises(AuditError, match="unlearned_shadows"):
        build_evidence(*world.trio(3), world.parts, world.context, needs, 5)


def test_a_leaking_original_is_found_by_lira_and_a_forgetting_one_is_not(forgotten):
    lira = forgotten["comparison"]["lira_auc"]
    assert lira["original"]["value"] > 0.9
    assert lira["unlearned"]["value"] == pytest.approx(0.5, abs=0.2)
    assert forgotten["criteria"]["u_lira_auc"]["unlearned_position"] == "inside"
