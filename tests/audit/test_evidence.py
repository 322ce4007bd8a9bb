"""Evidence from made-up models with a known answer."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from forgetmi.attacks.membership import signals
from forgetmi.audit.comparison import time_against_retraining
from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.pictures import reduced_roc
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.audit.wording import number
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import auc, roc_curve, tpr_at_fpr
from tests.audit.conftest import QUICK
from tests.audit.synthetic import World


def losses(scores, part):
    return scores.parts[part]["nll"].astype(np.float64)


def test_the_good_case_passes_and_its_controls_hold(evidence):
    verdict, controls = evidence["verdict"], evidence["controls"]
    assert verdict["decision"] == "pass", verdict["reasons"]
    assert controls["original"]["decision"] == "fail"
    assert controls["n_passed"] == controls["n_held_out"] == 3
    assert [c["headline"] for c in evidence["criteria"].values()] == [True] + [False] * 10


def test_attack_figures_are_the_metrics_of_the_scores(evidence, scores):
    original, unlearned, retrained = scores
    for model, shown in (
        (original, evidence["models"]["original"]),
        (retrained[2], evidence["models"]["retrained"][2]),
    ):
        forget, test = losses(model, "forget"), losses(model, "test")
        member = np.repeat([1, 0], [len(forget), len(test)])
        values = -np.concatenate([forget, test])
        figures = shown["attacks"]["loss"]
        assert figures["auc"]["value"] == pytest.approx(roc_auc_score(member, values), abs=1e-12)
        assert figures["tpr_at_fpr_0.01"]["value"] == tpr_at_fpr(values, member, 0.01).value
        assert figures["forget_loss"]["value"] == pytest.approx(forget.mean())
        assert shown["loss_difference"]["value"] == pytest.approx(forget.mean() - test.mean())
    assert evidence["models"]["unlearned"]["weights_sha256"] == unlearned.weights_sha256


def test_utility_figures_are_the_metrics_of_the_logits(evidence, scores, world):
    logits, labels = scores[1].parts["test"]["logits"], world.parts["test"].labels
    shown = evidence["models"]["unlearned"]["utility"]["test"]["figures"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert shown["accuracy"]["value"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert shown["auc"]["value"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"), abs=1e-6)
    assert shown["cross_entropy"]["value"] == pytest.approx(losses(scores[1], "test").mean())


def test_gaps_are_to_the_distribution_of_the_retrained_models(evidence, scores):
    row = evidence["comparison"]["forget_cross_entropy"]
    values = [losses(m, "forget").mean() for m in scores[2]]
    own = losses(scores[1], "forget").mean()
    assert row["retrained"]["values"] == pytest.approx(values)
    assert (row["retrained"]["low"], row["retrained"]["high"]) == pytest.approx((min(values), max(values)))
    assert row["unlearned"]["gap"]["z"] == pytest.approx((own - np.mean(values)) / np.std(values, ddof=1))
    assert row["original"]["reading"] == "the model still remembers more than a retrained one"


def test_criteria_agree_with_the_comparison_and_other_attacks_are_judged_at_a_wider_interval(evidence):
    for key, criterion in evidence["criteria"].items():
        row = evidence["comparison"][key]
        assert criterion["unlearned"]["value"] == row["unlearned"]["value"]
        assert (criterion["retrained_low"], criterion["retrained_high"]) == (
            row["retrained"]["low"],
            row["retrained"]["high"],
        )
    entropy, row = evidence["criteria"]["entropy_auc"], evidence["comparison"]["entropy_auc"]["unlearned"]
    assert entropy["level"] == pytest.approx(1 - 0.05 / 7)  # five more attacks, and two looks at single people
    assert entropy["unlearned"]["high"] - entropy["unlearned"]["low"] > row["high"] - row["low"]


def test_the_headline_attack_on_patients_stands_beside_the_one_on_records():
    from forgetmi.metrics.roc import auc

    world = World(sizes={"forget": 12, "retain": 60, "validation": 20, "test": 60}, records_per_patient=3)
    models = world.trio(2)
    found = build_evidence(*models, world.parts, world.context, QUICK, 1)
    loss = [np.asarray(models[0].parts[part]["nll"], dtype=np.float64) for part in ("forget", "test")]
    means = np.concatenate([part.reshape(-1, 3).mean(axis=1) for part in loss])
    expected = auc(-means, np.repeat([True, False], [12, 60]))
    assert found["comparison"]["patient_auc"]["original"]["value"] == pytest.approx(expected)
    assert found["models"]["original"]["by_patient"]["figures"]["auc"]["n_samples"] == 72
    assert found["comparison"]["patient_auc@number_of_records"]["original"]["value"] == 0.5
    one_each = World(sizes={"forget": 12, "retain": 60, "validation": 20, "test": 60})
    again = build_evidence(*one_each.trio(2), one_each.parts, one_each.context, QUICK, 1)
    assert again["models"]["original"]["by_patient"] is None and "patient_auc" not in again["comparison"]


def test_people_are_counted_by_patient():
    world = World(sizes={"forget": 12, "retain": 60, "validation": 20, "test": 60}, records_per_patient=3)
    original, unlearned, retrained = world.trio(2)
    found = build_evidence(original, unlearned, retrained, world.parts, world.context, QUICK, 1)["people"]
    assert (found["patients"], found["outsiders"]) == (12, 60)
    highest = {
        part: np.array(
            [
                -losses(original, part)[world.parts[part].patients == p].min()
                for p in np.unique(world.parts[part].patients)
            ]
        )
        for part in ("forget", "test")
    }
    # 5 % of 60 outsiders: at most 3 may score at or above the threshold
    thresholds = np.concatenate([highest["forget"], highest["test"]])
    best = max(int((highest["forget"] >= t).sum()) for t in thresholds if (highest["test"] >= t).sum() <= 3)
    assert found["known"]["original"]["found"] == best
    assert found["known"]["original"]["accused"] <= 3


def test_likeness_and_tug_of_war_by_hand(evidence, scores):
    a, b = (m.parts["forget"]["logits"].astype(np.float64) for m in (scores[1], scores[2][0]))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert evidence["likeness"]["forget"]["unlearned"]["pairs"][0]["value"] == pytest.approx(cosine.mean())
    assert len(evidence["likeness"]["forget"]["among_retrained"]["pairs"]) == 3
    models = evidence["models"]
    own, other = (
        [m["utility"][p]["figures"]["accuracy"]["value"] for p in ("forget", "retain", "test")]
        for m in (models["unlearned"], models["retrained"][1])
    )
    tow = np.prod([1 - abs(x - y) for x, y in zip(own, other, strict=True)])
    assert evidence["tug_of_war"]["unlearned"]["tow"]["values"][1] == pytest.approx(tow)
    mia = 1 - abs(
        models["unlearned"]["attacks"]["loss"]["auc"]["value"]
        - models["retrained"][1]["attacks"]["loss"]["auc"]["value"]
    )
    expected = mia * (1 - abs(own[1] - other[1])) * (1 - abs(own[2] - other[2]))
    assert evidence["tug_of_war"]["unlearned"]["tow_mia"]["values"][1] == pytest.approx(expected)


def measured(role, seconds, alone=True):
    return SimpleNamespace(scores=SimpleNamespace(role=role, seconds=seconds, alone=alone))


@pytest.mark.parametrize(
    ("retrained", "share", "basis"),
    [
        ([(20.0, True), (30.0, True)], 9 / 25, "retrained"),
        ([(40.0, False), (20.0, True)], 9 / 20, "retrained"),  # two at a time take longer, and tell nothing
        ([(40.0, False), (50.0, False)], 9 / 18, "original"),
        ([(None, True), (20.0, True)], 9 / 20, "retrained"),  # a resumed one was measured in part
        ([(None, True), (50.0, False)], 9 / 18, "original"),
    ],
)
def test_time_is_compared_with_what_ran_alone_and_whole(retrained, share, basis):
    others = [measured("retrained", *one) for one in retrained]
    found = time_against_retraining(measured("original", 18.0), measured("unlearned", 9.0), others)
    assert (found["share_of_retraining"], found["compared_with"]) == (pytest.approx(share), basis)
    assert time_against_retraining(measured("original", None), measured("unlearned", None), others)["reason"]


def test_small_figures_keep_their_digits():
    assert [number(v) for v in (0.5, 0.0, 0.00042, -0.0031, 3e-9)] == [
        "0.500",
        "0.000",
        "0.00042",
        "-0.0031",
        "3.0e-09",
    ]


def test_time_is_a_share_of_one_retraining(evidence):
    assert evidence["time"]["share_of_retraining"] == pytest.approx(9.0 / np.mean([55.0, 56.0, 57.0]))


def test_every_figure_can_be_computed_again_from_reduced_curves():
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=400), rng.integers(0, 6, 400).astype(float)):
        member = rng.random(400) < 0.2
        curve = reduced_roc(roc_curve(scores, member))
        tp, fp = np.array(curve["tp"]), np.array(curve["fp"])
        area = np.trapezoid(tp / curve["n_members"], fp / curve["n_nonmembers"])
        assert area == pytest.approx(auc(scores, member))
        for fpr in (0.01, 0.05, 0.3, 1.0):
            best = tp[fp <= np.floor(fpr * curve["n_nonmembers"] + 1e-9)].max()
            assert best == tpr_at_fpr(scores, member, fpr).tp


def test_histograms_count_every_record(evidence, world):
    for role, times in (("original", 1), ("unlearned", 1), ("retrained", 3)):
        for part in ("forget", "retain", "test"):
            counts = evidence["histograms"]["counts"][role][part]
            assert sum(counts) == times * len(world.parts[part].patients)
            assert len(counts) == len(evidence["histograms"]["edges"]) - 1


def test_the_same_seed_gives_the_same_evidence_and_another_one_other_intervals(audit, world):
    first, again = audit(), audit()
    assert first == again
    other = build_evidence(*world.trio(3), world.parts, world.context, QUICK, 6)
    key = ("models", "original", "attacks", "loss", "auc")
    values = [e[key[0]][key[1]][key[2]][key[3]][key[4]] for e in (first, other)]
    assert values[0]["value"] == values[1]["value"]
    assert values[0]["interval"] != values[1]["interval"]


def test_evidence_is_strict_json_without_nan(evidence):
    text = json.dumps(evidence, allow_nan=False)
    assert json.loads(text) == evidence


def meanings(evidence):
    return {f["criterion"]: f["meaning"] for f in evidence["verdict"]["findings"]}


def test_untouched_original_fails_and_the_report_says_that_nothing_changed(audit, scores):
    evidence = audit(replace(scores[0], role="unlearned"))
    assert evidence["verdict"]["decision"] == "fail"
    assert meanings(evidence)["loss_auc"] == "remembered"
    assert "nothing was changed" in evidence["verdict"]["cautions"][0]


def test_nothing_memorised_is_inconclusive(audit, world):
    evidence = audit(world.model("unlearned", seed=2), original_memory=0.0)
    assert evidence["verdict"]["decision"] == "inconclusive"
    assert not evidence["verdict"]["informative"]


def test_constant_outputs_fail(audit, world):
    constant = world.model("unlearned", change=lambda part, z, y, rng: np.zeros_like(z))
    evidence = audit(constant)
    assert evidence["verdict"]["decision"] == "fail"
    assert meanings(evidence)["test_auc"] == "utility_lost"
    assert evidence["models"]["unlearned"]["attacks"]["loss"]["auc"]["value"] == 0.5
    assert evidence["likeness"]["test"]["unlearned"]["mean"] is None


def test_outputs_of_other_records_fail(audit, world):
    shuffled = world.model("unlearned", change=lambda part, z, y, rng: z[rng.permutation(len(z))])
    found = meanings(audit(shuffled))
    assert found["test_auc"] == "utility_lost"
    assert found["forget_cross_entropy"] == "over_forgotten"


def test_over_forgotten_fails_below_the_retrained_range(audit, world):
    evidence = audit(world.model("unlearned", seed=2, forget_memory=-1.6))
    assert evidence["models"]["unlearned"]["attacks"]["loss"]["auc"]["value"] < 0.35
    found = meanings(evidence)
    assert found["loss_auc"] == found["forget_cross_entropy"] == "over_forgotten"
    assert "recognisable" in evidence["verdict"]["summary"]
    # nobody is found as well known, which must not look like success: they are found as treated badly
    people = evidence["people"]
    assert people["known"]["unlearned"]["found"] <= people["known"]["retrained_low"]
    assert people["marked"]["unlearned"]["found"] > people["marked"]["retrained_high"]


def test_flattened_outputs_that_keep_every_rank_fail(audit, world):
    evidence = audit(world.model("unlearned", seed=2, change=lambda part, z, y, rng: z * 0.01))
    assert "test_auc" not in meanings(evidence)
    assert meanings(evidence)["forget_cross_entropy"] == "over_forgotten"


@pytest.mark.parametrize("n_forget", [1, 3])
def test_tiny_forget_sets_never_pass(audit, n_forget):
    small = World(sizes={"forget": n_forget, "retain": 100, "validation": 20, "test": 150})
    evidence = audit(world=small)
    assert evidence["verdict"]["decision"] == "inconclusive"
    assert f"{n_forget} forgotten patient" in evidence["verdict"]["reasons"][0]
    json.dumps(evidence, allow_nan=False)


def test_two_retrained_models_are_enough_and_said_to_be_few(audit):
    evidence = audit(n_retrained=2)
    assert evidence["verdict"]["decision"] == "pass"
    assert "2 retrained models" in evidence["verdict"]["cautions"][-1]


def test_retrained_models_all_alike(audit, world):
    """Different weights, the same outputs: no spread, and no z."""
    original, unlearned, retrained = world.trio(3)
    alike = [replace(retrained[0], index=i, weights_sha256=m.weights_sha256) for i, m in enumerate(retrained)]
    evidence = build_evidence(original, unlearned, alike, world.parts, world.context, QUICK, 5)
    assert evidence["verdict"]["decision"] == "pass"
    assert evidence["comparison"]["loss_auc"]["unlearned"]["gap"]["z"] is None


@pytest.mark.parametrize("n", [0, 1])
def test_without_two_retrained_models_there_is_no_audit(audit, n):
    with pytest.raises(AuditError, match="retrained"):
        audit(n_retrained=n)


def test_copies_of_one_model_are_no_range(world):
    original, unlearned, retrained = world.trio(2)
    with pytest.raises(AuditError, match="copies"):
        build_evidence(original, unlearned, [retrained[0], retrained[0]], world.parts, world.context, QUICK, 5)
    impostor = replace(retrained[1], weights_sha256=original.weights_sha256)
    with pytest.raises(AuditError, match="saw the forget set"):
        build_evidence(original, unlearned, [retrained[0], impostor], world.parts, world.context, QUICK, 5)


def test_scores_in_another_order_than_the_labels_are_noticed(world):
    original, unlearned, retrained = world.trio(2)
    parts = dict(unlearned.parts)
    parts["test"] = {**parts["test"], "nll": parts["test"]["nll"][::-1]}
    with pytest.raises(AuditError, match="does not follow from logits and labels"):
        build_evidence(original, replace(unlearned, parts=parts), retrained, world.parts, world.context, QUICK, 5)


def test_models_in_the_wrong_place_are_refused(world):
    original, unlearned, retrained = world.trio(2)
    with pytest.raises(AuditError, match="given as unlearned, original"):
        build_evidence(unlearned, original, retrained, world.parts, world.context, QUICK, 5)


def test_ids_do_not_enter_an_audit():
    with pytest.raises(AuditError, match="integer codes"):
        PartInfo(np.array([0, 1]), np.array(["p-001", "p-002"]))


def test_multilabel_with_unknown_labels():
    rng = np.random.default_rng(0)
    context, parts, first = AuditContext("multilabel", 3), {}, 0
    for name, n in (("forget", 25), ("retain", 80), ("validation", 20), ("test", 120)):
        labels = (rng.random((n, 3)) < 0.4).astype(float)
        labels[rng.random((n, 3)) < 0.1] = np.nan
        parts[name] = PartInfo(labels, np.arange(first, first + n))
        first += n

    def model(role, index, memory):
        scored = {}
        for name, info in parts.items():
            sign = np.where(info.labels == 1, 1.0, -1.0)
            boost = memory if name == "forget" else 3.0 if name == "retain" else 0.0
            z = (1.0 + boost) * sign + rng.normal(0, 1.5, sign.shape)
            scored[name] = {"nll": signals.nll(z, info.labels, multilabel=True), "logits": z}
        return ModelScores(role, scored, f"{hash((role, index)) & 0xFFFF:064x}", index)

    trio = model("original", 0, 3.0), model("unlearned", 0, 0.0), [model("retrained", i, 0.0) for i in range(2)]
    evidence = build_evidence(*trio, parts, context, AuditOptions(n_bootstrap=200), 1)
    assert evidence["controls"]["original"]["decision"] == "fail"
    assert evidence["time"]["share_of_retraining"] is None
    json.dumps(evidence, allow_nan=False)


def test_the_formula_gives_about_the_interval_that_resampling_gives(evidence):
    for model in (evidence["models"]["original"], evidence["models"]["unlearned"], *evidence["models"]["retrained"]):
        figure, formula = model["attacks"]["loss"]["auc"], model["headline_by_formula"]
        assert formula["method"].startswith("DeLong")
        assert formula["low"] < figure["value"] < formula["high"]
        width = figure["interval"]["high"] - figure["interval"]["low"]
        for end in ("low", "high"):
            assert formula[end] == pytest.approx(figure["interval"][end], abs=0.2 * width)


def test_a_gaussian_mechanism_is_assumed_only_where_asked_for_and_said(audit):
    plain = audit(options=replace(QUICK, delta=1e-5))["epsilon"]["original"]
    assumed = audit(options=replace(QUICK, delta=1e-5, epsilon_law="gaussian_dp"))["epsilon"]["original"]
    assert plain["mu"] is None and len(plain["assumptions"]) == 1
    assert assumed["mu"] >= 0.0 and "Gaussian" in assumed["assumptions"][1]
    for law, what in (("gaussian_dp", "delta above 0"), ("gausian_dp", "Did you mean 'gaussian_dp'")):
        with pytest.raises(ConfigError, match=what):
            AuditOptions(epsilon_law=law)
