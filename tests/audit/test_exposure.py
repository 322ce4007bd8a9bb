"""The exposure audit: planted leakage is found, exchangeable people are not, and the document recomputes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forgetmi.attacks.membership.result import AttackResult
from forgetmi.audit.exposure import build_exposure, lacks_for_verdict
from forgetmi.audit.exposure_rule import (
    ExposureOptions,
    Look,
    decide,
    explained,
    limits,
    look,
    ranking_p,
)
from forgetmi.audit.schema import validate_document
from forgetmi.audit.signals_audit import audit_signals, write_audit
from forgetmi.audit.signals_file import read_signals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.figure import Figure
from forgetmi.metrics.intervals import Interval
from forgetmi.metrics.testing import adjusted_p_values, chance_of_standing_out
from tests.audit.signal_files import ALL_PARTS, as_kind, frame, with_shadows

FEW_PARTS = {"member": 12, "retain": 20, "population": 12, "nonmember": 20}
QUICK = ExposureOptions(n_bootstrap=200, n_permutations=999)


def audited(folder, table, options=QUICK, **settings):
    table.to_csv(folder / "signals.csv", index=False)
    return audit_signals(folder / "signals.csv", options, **settings)


def decided(folder, table, options=QUICK, **settings):
    return audited(folder, table, options, **settings).exposure["decision"]


def scored(scores, member, patient=None):
    """An attack's result with these scores and an AUC that is theirs."""
    scores, member = np.asarray(scores, dtype=float), np.asarray(member, dtype=bool)
    patient = np.arange(len(scores)) if patient is None else np.asarray(patient)
    value = stats.mannwhitneyu(scores[member], scores[~member]).statistic / member.sum() / (~member).sum()
    interval = Interval(max(0.0, value - 0.1), min(1.0, value + 0.1), 0.95, "made up", len(scores))
    figure = Figure("auc", float(value), interval, len(scores), len(scores), "remembers_above", "")
    return AttackResult("loss", "", {}, {"auc": figure}, scores=scores, member=member, patient=patient)


# --- the rule's arithmetic


def test_copies_of_records_do_not_make_a_ranking_more_certain():
    rng = np.random.default_rng(2)
    scores, member = rng.normal(size=30) + np.repeat([0.8, 0.0], 15), np.repeat([True, False], 15)
    once = ranking_p(scored(scores, member), np.random.default_rng(1), 1999)
    copied = scored(np.repeat(scores, 5), np.repeat(member, 5), np.repeat(np.arange(30), 5))
    assert ranking_p(copied, np.random.default_rng(1), 1999) == once


def made_look(value, p, kind="ranking", direction="known", width=0.1, attack="loss"):
    interval = Interval(max(0.0, value - width), min(1.0, value + width), 0.95, "made up", 100)
    count = round(value * 40) if kind == "standing_out" else None
    return Look(attack, kind, direction, value, interval, count, p, p)


def test_limits_follow_from_the_numbers_of_people_and_looks():
    looks = [made_look(0.5, 0.9), made_look(0.02, 0.5, "standing_out")]
    found = limits(looks, 40, 80, 0.05)
    sd = np.sqrt(121 / (12 * 40 * 80))
    assert found.detectable_auc == pytest.approx(0.5 + (stats.norm.ppf(1 - 0.05 / 4) + stats.norm.ppf(0.8)) * sd)
    k = found.noticed_people
    assert 2 * chance_of_standing_out(k, 40, 80) <= 0.025 < 2 * chance_of_standing_out(k - 1, 40, 80)
    assert found.largest_auc == pytest.approx(0.6)
    assert limits(looks, 2, 3, 0.05).detectable_auc is None
    assert limits(looks, 2, 3, 0.05).noticed_people is None


RULE = {
    "found": ([made_look(0.8, 0.001)], [], 40, 80, "exposed"),
    "found the other way round": ([made_look(0.2, 0.001, direction="marked")], [], 40, 80, "exposed"),
    "found although few": ([made_look(1.0, 0.001)], [], 5, 80, "exposed"),
    "nothing": ([made_look(0.52, 0.6)], [], 60, 80, "none_found"),
    "nothing, of few": ([made_look(0.52, 0.6)], [], 9, 800, "cannot_tell"),
    "nothing, but the limit is too far": ([made_look(0.52, 0.6)], [], 12, 14, "cannot_tell"),
    "as in all retrained": ([made_look(0.7, 0.001)], [[made_look(0.68, 0.01)]] * 2, 60, 80, "cannot_tell"),
    "more than in retrained": ([made_look(0.9, 0.001)], [[made_look(0.68, 0.01)]] * 2, 60, 80, "exposed"),
    "as in one of two": (
        [made_look(0.7, 0.001)],
        [[made_look(0.68, 0.01)], [made_look(0.55, 0.3)]],
        60,
        80,
        "exposed",
    ),
    "turned in retrained": (
        [made_look(0.7, 0.001)],
        [[made_look(0.3, 0.01, direction="marked")]] * 2,
        60,
        80,
        "exposed",
    ),
    "below, as in retrained": (
        [made_look(0.3, 0.001, direction="marked")],
        [[made_look(0.35, 0.01, direction="marked")]] * 2,
        60,
        80,
        "cannot_tell",
    ),
}


@pytest.mark.parametrize("case", RULE)
def test_the_rule(case):
    looks, retrained, members, outsiders, outcome = RULE[case]
    assert decide(looks, retrained, members, outsiders, ExposureOptions())[0] == outcome
    assert explained(looks[0], retrained, 0.05) == (outcome == "cannot_tell" and bool(retrained))


# --- known truth


@pytest.mark.parametrize("kind", ["probabilities", "logits", "loss", "phi"])
def test_planted_leakage_is_found_from_every_kind_of_signal(tmp_path, kind):
    found = decided(tmp_path, as_kind(frame(("target",), leak={"target": 2.0}), kind))
    assert found["outcome"] == "exposed"
    assert {one["direction"] for one in found["findings"]} == {"known"}
    assert "people who were in training can be told" in found["summary"]


def test_labels_alone_are_enough_where_views_differ(tmp_path):
    table = as_kind(frame(("target",), {"member": 60, "nonmember": 90}, leak={"target": 3.0}, views=5), "correct")
    found = audited(tmp_path, table).exposure
    assert (found["headline"], list(found["attacks"])) == ("label_only", ["label_only"])
    assert found["decision"]["outcome"] == "exposed"
    assert any(one["attack"] == "loss" and "does not follow" in one["reason"] for one in found["not_run"])


def test_people_who_are_treated_worse_are_exposed_too(tmp_path):
    found = decided(tmp_path, frame(("original", "unlearned"), leak={"unlearned": -3.0}))
    assert (found["outcome"], found["model"]) == ("exposed", "unlearned")
    assert {one["direction"] for one in found["findings"]} == {"marked"}
    assert "unlearn less strongly" in " ".join(found["advice"])


def test_a_few_exposed_people_are_found_although_the_average_hides_them(tmp_path):
    """10 of 500 known perfectly: the AUC says nothing, standing out says all."""
    sizes = {"member": 500, "nonmember": 500}
    found = decided(tmp_path, as_kind(frame(("target",), sizes, leak={"target": 1e-9}, exposed=10), "loss"))
    assert found["outcome"] == "exposed"
    (one,) = found["findings"]
    assert one["kind"] == "standing_out"
    assert 10 <= one["count"] < 20  # a few more stand there by chance


def test_exchangeable_people_are_not_found_beyond_the_nominal_rate():
    """160 draws of exchangeable people with 1 to 3 records: a false finding in at most 5 %, by the rule as a whole."""
    rng, exposed, below = np.random.default_rng(0), 0, {"ranking": 0, "standing_out": 0}
    for _ in range(160):
        patient = np.repeat(np.arange(100), rng.integers(1, 4, 100))
        scores = rng.normal(size=100)[patient] + rng.normal(0, 0.5, patient.size)
        looks = look({"loss": scored(scores, patient < 40, patient)}, rng, n_permutations=999, level=0.95)
        exposed += decide(looks, [], 40, 60, ExposureOptions())[0] == "exposed"
        for one in looks:
            below[one.kind] += one.p <= 0.05
    assert exposed <= stats.binom.ppf(0.999, 160, 0.05)
    # the ranking's p-values are exact, and not merely cautious
    assert stats.binom.ppf(0.001, 160, 0.05) <= below["ranking"] <= stats.binom.ppf(0.999, 160, 0.05)
    assert below["standing_out"] <= stats.binom.ppf(0.999, 160, 0.05)


def test_people_with_more_records_do_not_stand_out_by_that_alone():
    """The highest of many draws lies high: members with 1 to 12 records, outsiders with 1 to 4, nothing leaks."""
    rng, below = np.random.default_rng(5), 0
    for _ in range(300):
        records = np.concatenate([rng.integers(1, 13, 30), rng.integers(1, 5, 60)])
        patient = np.repeat(np.arange(90), records)
        looks = look({"loss": scored(rng.normal(size=patient.size), patient < 30, patient)}, rng,
                     n_permutations=100, level=0.95)  # fmt: skip
        below += next(one.p for one in looks if one.kind == "standing_out") <= 0.05
    assert below <= stats.binom.ppf(0.999, 300, 0.05)


def test_leakage_of_the_stated_limit_is_found_in_8_of_10():
    rng, member, found = np.random.default_rng(1), np.arange(100) < 40, 0
    limit = limits([made_look(0.5, 0.9), made_look(0.02, 0.5, "standing_out")], 40, 60, 0.05).detectable_auc
    shift = np.sqrt(2) * stats.norm.ppf(limit)  # of normal scores with this AUC
    for _ in range(80):
        scores = rng.normal(size=100) + shift * member
        looks = look({"loss": scored(scores, member)}, rng, n_permutations=999, level=0.95)
        found += decide(looks, [], 40, 60, ExposureOptions())[0] == "exposed"
    assert stats.binom.ppf(0.001, 80, 0.8) <= found <= stats.binom.ppf(0.999, 80, 0.83)


def test_a_file_without_leakage_is_not_exposed(tmp_path):
    found = decided(tmp_path, frame(("target",), {"member": 60, "nonmember": 80}, seed=5))
    assert found["outcome"] == "none_found"
    assert "down to the limit stated" in found["summary"]


@pytest.mark.parametrize("records", [1, 2])
def test_the_limit_of_standing_out_is_told_for_people_with_as_many_records(tmp_path, records):
    table = frame(("target",), {"member": 60, "nonmember": 80}, seed=5)
    if records == 2:
        again = table[table["patient"] == table["patient"].iloc[0]].copy()
        table = pd.concat([table, again.assign(record="another")])
    assert ("if all had as many records" in decided(tmp_path, table)["limit"]) == (records == 2)


def test_few_people_are_too_few_to_say(tmp_path):
    found = decided(tmp_path, frame(("target",), {"member": 8, "nonmember": 200}))
    assert found["outcome"] == "cannot_tell"
    assert "too small to say" in found["summary"]
    assert "8 people and 200 outsiders" in found["reasons"][0]


@pytest.mark.parametrize("sizes", [(1, 80), (30, 1), (1, 1)])
def test_one_person_on_a_side_is_said_and_drawn(tmp_path, sizes):
    found = audited(tmp_path, frame(("target",), dict(zip(("member", "nonmember"), sizes, strict=True)), records=3))
    assert found.exposure["decision"]["outcome"] == "cannot_tell"
    assert "1 people" not in found.exposure["decision"]["reasons"][0]
    assert "CANNOT SAY" in write_audit(found, tmp_path / "out").read_text()


def test_a_model_that_answers_everybody_alike_exposes_nobody_and_that_is_said(tmp_path):
    found = decided(tmp_path, as_kind(frame(("target",)), "loss").assign(loss=1.0))
    assert found["outcome"] == "none_found"
    assert any("All records have the same loss" in text for text in found["cautions"])


def test_what_a_group_is_called_is_escaped(tmp_path):
    table = frame(("target",)).assign(group_site=lambda t: np.where(t["label"] == 1, "<script>1</script>", "b"))
    table["patient"] = table["record"]
    assert "<script" not in write_audit(audited(tmp_path, table), tmp_path / "out").read_text()


def test_a_difference_that_retrained_models_show_as_well_is_no_memory(tmp_path):
    """Members are easier people: every model finds them, also those that never saw them."""
    models = ("target", "retrained-1", "retrained-2", "retrained-3")
    table = as_kind(frame(models, {"member": 80, "nonmember": 120}, leak=dict.fromkeys(models, 1.5)), "loss")
    found = audited(tmp_path, table).exposure
    assert found["decision"]["outcome"] == "cannot_tell"
    assert "the two groups of people differ" in found["decision"]["summary"]
    assert len(found["decision"]["explained"]) == len(found["decision"]["findings"]) > 0
    assert found["ranges"]["loss"]["positions"]["target"] == "inside"


def test_shadow_models_see_what_the_loss_hides(tmp_path):
    """Difficulty varies a hundredfold between records and memory halves the loss: only a comparison shows it."""
    table = as_kind(frame(("target",), {"member": 60, "nonmember": 60}), "loss")
    rng = np.random.default_rng(4)
    difficulty = np.exp(rng.normal(0, 2.5, len(table)))
    loss = difficulty * np.exp(rng.normal(0, 0.2, len(table)) - 1.0 * (table["part"] == "member"))
    found = audited(tmp_path, with_shadows(table.assign(loss=loss, difficulty=difficulty), gain=1.0, noise=0.2))
    target = found.exposure["models"]["target"]
    assert {"loss", "lira", "calibrated", "attack_r"} <= set(target)
    value = {name: one["figures"]["auc"]["value"] for name, one in target.items()}
    assert value["lira"] > 0.95
    assert value["loss"] < 0.7
    assert found.exposure["decision"]["outcome"] == "exposed"


def test_attacks_that_the_file_does_not_permit_are_named_with_the_reason(tmp_path):
    found = audited(tmp_path, as_kind(frame(("target",)), "loss")).exposure
    reasons = {one["attack"]: one["reason"] for one in found["not_run"]}
    assert list(found["attacks"]) == ["loss"]
    assert "does not follow from the loss" in reasons["entropy"]
    assert "shadow models (rows of shadow-1, ...)" in reasons["lira"]
    assert "ranks records as the attack on the loss does" in reasons["attack_p"] or "population" in reasons["attack_p"]
    asked = audited(tmp_path, frame(("target",)), ExposureOptions(("entropy",), 200, 999)).exposure
    assert list(asked["attacks"]) == ["entropy"]
    assert {one["reason"] for one in asked["not_run"] if one["attack"] == "loss"} == {"not asked for"}
    with pytest.raises(AuditError, match="no attack can be made on target"):
        audited(tmp_path, as_kind(frame(("target",)), "loss"), ExposureOptions(("entropy",), 200, 999))


def test_outsiders_against_outsiders_are_a_control(tmp_path):
    table = frame(("target",), {"member": 40, "nonmember": 80, "population": 60})
    (control,) = audited(tmp_path, table).exposure["controls"]
    assert control["p"] > 0.01
    shifted = frame(("target",), {"member": 60, "nonmember": 80, "population": 40}, leak={"target": 2.0})
    swapped = shifted.assign(part=shifted["part"].replace({"member": "population", "population": "member"}))
    found = audited(tmp_path, swapped).exposure
    assert found["controls"][0]["p"] < 0.05
    assert any("Two groups of outsiders differ as well" in text for text in found["decision"]["cautions"])


def test_small_groups_are_not_published(tmp_path):
    table = frame(("target",), {"member": 60, "nonmember": 60})
    table["group_site"] = np.where(table["patient"].str.endswith(("1", "2", "3")), "A", "B")
    table.loc[table["patient"].isin(["SECRET-member-5", "SECRET-nonmember-5"]), "group_site"] = "tiny"
    found = audited(tmp_path, table).exposure["groupings"]
    assert [group["name"] for group in found["sex"]["groups"]] == ["f", "m"]
    assert "tiny" not in json.dumps(found)
    assert found["site"]["n_left_out"] >= 2


# --- the document


def test_every_figure_follows_from_the_counts_in_the_document(tmp_path):
    models = ("original", "unlearned", "retrained-1", "retrained-2")
    document = audited(tmp_path, as_kind(frame(models, leak={"original": 1.0}, records=2), "loss")).exposure
    decision = document["decision"]
    for attacks in document["models"].values():
        for one in attacks.values():
            roc, figures = one["roc"], one["figures"]
            tpr, fpr = np.array(roc["tp"]) / roc["n_members"], np.array(roc["fp"]) / roc["n_nonmembers"]
            assert figures["auc"]["value"] == pytest.approx(np.trapezoid(tpr, fpr), abs=1e-12)
            for target in document["options"]["fprs"]:
                figure = figures[f"tpr_at_fpr_{target:g}"]
                if target < 1 / roc["n_nonmembers"]:
                    assert figure["value"] is None
                    assert "not measurable" in figure["reason"]
                else:
                    assert figure["value"] == pytest.approx(tpr[fpr <= target + 1e-12].max())
            for made in one["looks"]:
                if made["kind"] == "standing_out":
                    p = 2 * chance_of_standing_out(made["count"], decision["members"], decision["outsiders"])
                    assert made["p"] == pytest.approx(min(1.0, p))
    asked = [made for one in document["models"][decision["model"]].values() for made in one["looks"]]
    adjusted = adjusted_p_values([made["p"] for made in asked])
    assert adjusted == pytest.approx([made["p_adjusted"] for made in asked])
    assert [made for made in asked if made["p_adjusted"] <= decision["alpha"]] == decision["findings"]
    assert validate_document(json.loads(json.dumps(document, allow_nan=False)), "exposure") == document


def test_the_same_seed_gives_the_same_document_whatever_the_order_of_rows(tmp_path):
    table = frame(("original", "unlearned"), records=2)
    first, second, other = (
        audited(tmp_path, rows, seed=seed).exposure
        for rows, seed in ((table, 1), (table.sample(frac=1.0, random_state=1), 1), (table, 2))
    )
    assert first["models"] == second["models"]
    assert first["decision"] == second["decision"]
    assert first["models"] != other["models"]


TRIO = ("original", "unlearned", "retrained-1", "retrained-2", "retrained-3")


def test_a_whole_file_gets_the_whole_audit(tmp_path):
    table = frame(TRIO, ALL_PARTS, leak={"original": 2.5}, noise=0.5)
    found = audited(tmp_path, table)
    assert found.exposure["decision"] is None
    assert found.exposure["lacks"] == []
    assert found.evidence["verdict"]["decision"] == "pass"
    assert not found.bad
    weights = [found.evidence["models"][role]["weights_sha256"] for role in ("original", "unlearned")]
    assert weights == [None, None]


def test_copied_retrained_models_are_no_range(tmp_path):
    table = frame(TRIO, FEW_PARTS, leak={"original": 2.5})
    copied = table[table["model"] != "retrained-2"]
    again = table[table["model"] == "retrained-1"].assign(model="retrained-2")
    with pytest.raises(AuditError, match="a range of copies is no range"):
        audited(tmp_path, pd.concat([copied, again]))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t[t["model"] != "retrained-2"], "at least two retrained"),
        (lambda t: t[t["part"] != "population"], "part validation"),
        (lambda t: t[t["model"] != "original"], "the model original"),
        (lambda t: as_kind(t, "loss"), "probabilities or logits"),
        (lambda t: t[(t["part"] != "retain") | (t["model"] != "original")], "part retain for original"),
    ],
)
def test_what_a_file_lacks_for_a_verdict_is_said(tmp_path, change, word):
    table = change(frame(("original", "unlearned", "retrained-1", "retrained-2"), FEW_PARTS))
    table.to_csv(tmp_path / "signals.csv", index=False)
    (lack,) = lacks_for_verdict(read_signals(tmp_path / "signals.csv"))
    assert word in lack


def test_the_folder_of_a_run_is_refused(tmp_path):
    found = audited(tmp_path, as_kind(frame(("target",)), "loss"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="folder of a run"):
        write_audit(found, tmp_path / "run")


def test_every_option_is_checked_at_once():
    with pytest.raises(ConfigError) as caught:
        ExposureOptions(("los",), 10, 10, 0.2, 1, 1, 2.0, 0.4, ())
    said = str(caught.value)
    for word in (
        "Did you mean 'loss'",
        "n_bootstrap",
        "n_permutations",
        "level",
        "min_cell",
        "people_fpr",
        "limit",
        "fprs",
    ):
        assert word in said


def test_permutations_that_could_find_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"999 are too few for 6 looks at the level 0[.]99: at least 1200"):
        audited(tmp_path, frame(("target",)), ExposureOptions(n_bootstrap=200, n_permutations=999, level=0.99))


def test_building_from_a_table_needs_an_attack(tmp_path):
    as_kind(frame(("target",)), "loss").to_csv(tmp_path / "s.csv", index=False)
    table = read_signals(tmp_path / "s.csv")
    assert build_exposure(table, QUICK, 0)["headline"] == "loss"
