"""The audit of language models: made-up ones whose answer is known, probes, and controls."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.options import STANDARD_LANGUAGE, AuditOptions
from forgetmi.audit.probes import Probe
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.errors import AuditError
from forgetmi.metrics.per_example import PerExample

CONTEXT = AuditContext("causal_lm", 500)
OPTIONS = AuditOptions(attacks=("loss", "calibrated"), n_bootstrap=200)
SIZES = {"forget": 40, "retain": 80, "validation": 40, "test": 120}


class LanguageWorld:
    """Texts of a fixed difficulty; memory takes loss away and adds right tokens."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.parts, self.base, first = {}, {}, 0
        for name, n in SIZES.items():
            self.parts[name] = PartInfo(rng.integers(20, 60, n), first + np.arange(n))
            self.base[name] = rng.normal(3.0, 0.4, n)
            first += n

    def model(self, role, index=0, *, seed, memory=0.0, worse=0.0, written=None, rounded=None):
        rng = np.random.default_rng(seed)
        parts = {}
        for name, info in self.parts.items():
            loss = self.base[name] + rng.normal(0, 0.15, info.patients.size) + worse
            loss = np.maximum(loss - {"forget": memory, "retain": 2.0}.get(name, 0.0), 0.01)
            parts[name] = {"nll": loss, "n_tokens": info.labels, "correct": np.exp(-loss)}
        return ModelScores(
            role,
            parts,
            hashlib.sha256(f"{role} {index} {seed}".encode()).hexdigest(),
            index,
            60.0,
            probes=self.probes(rng, written if written is not None else 0.05 + 0.3 * memory, rounded or memory),
        )

    def probes(self, rng, written, rounded):
        def values(name, mean, n):
            drawn = np.clip(rng.normal(mean, 0.05, n), 0, 1)
            return PerExample(name, drawn, "remembers_above", "A share of {value:.2f} is written.")

        n, m = SIZES["forget"], SIZES["test"]
        told = Probe(
            "told", "extraction", "share of the answer that it writes", values("told", written, n), judged=True
        )
        after = values("after", 0.3 + 0.2 * rounded, n)
        outside = values("after", 0.3, m)
        unjudged = Probe("seen", "memorisation", "tokens that it knows", values("seen", written, n))
        return (
            told,
            Probe("int4", "quantisation", "attack after rounding", after, outsiders=outside, judged=True),
            unjudged,
        )


@pytest.fixture(scope="module")
def world():
    return LanguageWorld()


def audited(world, unlearned, controls=None, options=OPTIONS):
    original = world.model("original", seed=1, memory=2.0)
    retrained = [world.model("retrained", i, seed=10 + i) for i in range(4)]
    return build_evidence(original, unlearned, retrained, world.parts, CONTEXT, options, 5, None, controls)


@pytest.fixture(scope="module")
def forgotten(world):
    controls = {
        "destroyed": world.model("control", seed=50, worse=4.0),
        "random_share": world.model("control", 1, seed=51, memory=1.9),
    }
    return audited(world, world.model("unlearned", seed=2), controls)


def test_a_model_that_forgot_is_not_failed(forgotten):
    assert forgotten["verdict"]["decision"] == "pass", forgotten["verdict"]["reasons"]
    assert forgotten["task"]["kind"] == "causal_lm" and forgotten["likeness"] == {}
    assert {"told", "int4", "test_cross_entropy"} <= set(forgotten["criteria"])
    assert "seen" not in forgotten["criteria"] and "test_auc" not in forgotten["criteria"]


def test_probes_stand_in_the_table_under_their_heading(forgotten):
    rows = forgotten["comparison"]
    assert {key: rows[key]["group"] for key in ("told", "int4", "seen")} == {
        "told": "extraction",
        "int4": "quantisation",
        "seen": "memorisation",
    }
    assert rows["told"]["original"]["value"] > 0.5 > rows["told"]["unlearned"]["value"]
    assert rows["test_perplexity"]["unlearned"]["value"] > 1.0
    assert rows["test_accuracy"]["label"] == "Test records: share of tokens that are the likeliest one"


def test_controls_stand_beside_every_figure_and_are_judged(forgotten):
    assert all(set(row["controls"]) == {"destroyed", "random_share"} for row in forgotten["comparison"].values())
    known = forgotten["controls"]
    assert known["destroyed"]["decision"] == "fail"
    assert "utility_lost" in {f["meaning"] for f in known["destroyed"]["findings"]}
    assert known["random_share"]["decision"] == "fail" and known["original"]["decision"] == "fail"


def test_the_probes_share_the_error(forgotten):
    # two attacks: one other than the headline, two looks at single people, two probes
    expected = 1.0 - 0.05 / 5
    assert forgotten["criteria"]["told"]["level"] == pytest.approx(expected)
    assert forgotten["criteria"]["int4"]["level"] == pytest.approx(expected)
    assert forgotten["comparison"]["told"]["unlearned"]["level"] == 0.95


def test_what_is_written_is_found_though_the_loss_looks_harmless(world):
    evidence = audited(world, world.model("unlearned", seed=2, written=0.6))
    assert evidence["verdict"]["decision"] == "fail"
    assert [f["criterion"] for f in evidence["verdict"]["findings"]] == ["told"]
    assert evidence["criteria"]["told"]["meaning"] == "remembered"


def test_to_write_less_than_a_retrained_model_is_no_harm(world):
    evidence = audited(world, world.model("unlearned", seed=2, written=0.0))
    assert evidence["criteria"]["told"]["unlearned_position"] == "below"
    assert evidence["criteria"]["told"]["meaning"] is None


def test_what_an_attack_brings_back_is_found(world):
    evidence = audited(world, world.model("unlearned", seed=2, rounded=2.0))
    assert [f["criterion"] for f in evidence["verdict"]["findings"]] == ["int4"]
    assert evidence["verdict"]["decision"] == "fail"


def test_a_destroyed_model_is_called_destroyed_whatever_it_forgot(world):
    evidence = audited(world, world.model("unlearned", seed=2, worse=3.0))
    assert evidence["verdict"]["decision"] == "fail"
    assert evidence["criteria"]["test_cross_entropy"]["meaning"] == "utility_lost"


def test_a_rise_within_the_margin_is_tolerated(world):
    tolerant = replace(OPTIONS, loss_margin=5.0)
    evidence = audited(world, world.model("unlearned", seed=2, worse=3.0), options=tolerant)
    assert evidence["criteria"]["test_cross_entropy"]["meaning"] is None


def test_a_destroyed_model_that_passes_is_a_caution(world):
    same = world.model("control", seed=2)
    evidence = audited(world, world.model("unlearned", seed=2), {"destroyed": same})
    assert evidence["controls"]["destroyed"]["decision"] == "pass"
    assert any("random weights passes" in caution for caution in evidence["verdict"]["cautions"])


def test_other_token_counts_are_refused(world):
    model = world.model("unlearned", seed=2)
    parts = dict(model.parts)
    parts["forget"] = {**parts["forget"], "n_tokens": np.roll(parts["forget"]["n_tokens"], 1)}
    with pytest.raises(AuditError, match="another number of answer tokens"):
        audited(world, replace(model, parts=parts))


@pytest.mark.parametrize("value", [np.nan, None])
def test_broken_or_missing_signals_are_refused(world, value):
    model = world.model("unlearned", seed=2)
    own = dict(model.parts["test"])
    if value is None:
        del own["correct"]
    else:
        own["nll"] = np.where(np.arange(own["nll"].size) == 3, value, own["nll"])
    with pytest.raises(AuditError, match=r"test: (nll|correct)"):
        audited(world, replace(model, parts={**model.parts, "test": own}))


def test_every_model_must_be_asked_the_same(world):
    model = world.model("unlearned", seed=2)
    with pytest.raises(AuditError, match="asked other questions"):
        audited(world, replace(model, probes=model.probes[:1]))


def test_the_standard_attacks_are_those_for_language_models():
    options = AuditOptions().with_attacks({"retrained"}, language=True, judged_probes=3)
    assert options.attacks == STANDARD_LANGUAGE and not options.published_svc
    assert options.level_of("zlib") == pytest.approx(1 - 0.05 / (len(STANDARD_LANGUAGE) - 1 + 2 + 3))
