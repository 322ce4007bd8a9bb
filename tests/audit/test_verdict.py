"""The rule on numbers, where every answer can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from forgetmi.audit.criteria import Criterion, Reading, as_candidate
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.verdict import judge
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.delong import delong_interval
from forgetmi.metrics.intervals import Interval

OPTIONS = AuditOptions()


def reading(value, half=0.1, level=0.95):
    return Reading(value, Interval(value - half, value + half, level, "by hand", 30))


def unknown():
    return Reading(None, Interval.none("one patient on one side", n_patients=1))


def criterion(key, kind, original, candidate, retrained, half=0.1, headline=False):
    group = tuple(reading(v, half) for v in retrained)
    return Criterion(key, key, kind, reading(original, half), reading(candidate, half), group, headline)


def figures(auc=0.52, accuracy=0.86, ce=0.5, test=0.93, original=0.70, entropy=0.5, half=0.1):
    """All criteria of a model; retrained: AUC .50-.54, accuracy .85-.87, CE .45-.60, test AUC .92-.94."""
    return [
        criterion("loss_auc", "attack", original, auc, (0.50, 0.52, 0.54), half, headline=True),
        criterion("entropy_auc", "attack", 0.65, entropy, (0.48, 0.50, 0.53), half),
        criterion("forget_accuracy", "forget_accuracy", 1.0, accuracy, (0.85, 0.86, 0.87), 0.05),
        criterion("forget_cross_entropy", "forget_cross_entropy", 0.01, ce, (0.45, 0.5, 0.6), 0.1),
        criterion("test_auc", "test_auc", 0.935, test, (0.92, 0.93, 0.94), 0.01),
    ]


def verdict(criteria, n_forget=30, n_test=600, options=OPTIONS):
    return judge(criteria, n_forget_patients=n_forget, n_test_patients=n_test, options=options)


def meanings(criteria, **settings):
    return {f.criterion: f.meaning for f in verdict(criteria, **settings).findings}


def test_a_model_inside_on_every_figure_passes_with_the_numbers_as_reasons():
    result = verdict(figures())
    assert result.decision == "pass"
    assert result.findings == ()
    assert "0.700 (95 % interval 0.600 to 0.800)" in result.reasons[0]
    assert set(result.positions.values()) == {"inside"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"auc": 0.65}, {"loss_auc": "remembered"}),
        ({"auc": 0.39}, {"loss_auc": "over_forgotten"}),
        ({"entropy": 0.64}, {"entropy_auc": "remembered"}),
        ({"entropy": 0.37}, {"entropy_auc": "over_forgotten"}),
        ({"accuracy": 0.93}, {"forget_accuracy": "remembered"}),
        ({"accuracy": 0.79}, {"forget_accuracy": "over_forgotten"}),
        ({"ce": 0.34}, {"forget_cross_entropy": "remembered"}),
        ({"ce": 0.71}, {"forget_cross_entropy": "over_forgotten"}),
        ({"test": 0.90}, {"test_auc": "utility_lost"}),
    ],
)
def test_one_figure_outside_fails_and_is_named_with_its_direction(changes, expected):
    result = verdict(figures(**changes))
    assert result.decision == "fail"
    assert {f.criterion: f.meaning for f in result.findings} == expected
    assert len(result.reasons) == 1


@pytest.mark.parametrize(("auc", "decision"), [(0.6399, "pass"), (0.6401, "fail"), (0.4001, "pass"), (0.3999, "fail")])
def test_the_range_is_widened_by_the_own_interval_to_the_digit(auc, decision):
    # own interval: +-0.1; retrained .50 to .54; the original is far enough away
    assert verdict(figures(auc=auc, original=0.95)).decision == decision


def test_the_untouched_original_fails_when_informative_and_is_inconclusive_when_not():
    assert verdict(as_candidate(figures(), "original")).decision == "fail"
    nothing_learned = [replace(c, original=c.retrained[1]) for c in figures(original=0.52)]
    result = verdict(as_candidate(nothing_learned, "original"))
    assert (result.decision, result.informative) == ("inconclusive", False)
    assert "Nothing could have been detected" in result.reasons[0]


@pytest.mark.parametrize(("original", "informative"), [(0.6399, False), (0.6401, True), (0.30, False)])
def test_informative_means_above_the_retrained_range_by_the_own_interval(original, informative):
    result = verdict(figures(original=original, half=0.1))
    assert result.informative is informative
    # at .6401 the candidate's interval .42 to .62 does not reach it
    assert result.decision == ("pass" if informative else "inconclusive")


def test_an_uninformative_audit_never_passes_whatever_the_candidate():
    for auc in (0.42, 0.50, 0.54, 0.62):
        assert verdict(figures(auc=auc, original=0.55)).decision != "pass"


def test_what_is_seen_fails_even_where_remembering_could_not_have_been_seen():
    result = verdict(figures(original=0.52, test=0.6, ce=8.0))
    assert result.decision == "fail"
    assert "could not be judged" in result.summary


def test_an_interval_that_reaches_the_original_too_is_inconclusive():
    result = verdict(figures(auc=0.61, original=0.70))
    assert result.decision == "inconclusive"
    assert "Too imprecise" in result.reasons[0]


@pytest.mark.parametrize(
    ("figure", "n_forget", "n_test", "said"),
    [
        # 12 ((.70 - .54) / 2.8015852)^2 = .039139; (600 + 1) / (600 * .039139 - 1) = 26.7
        ({"auc": 0.61}, 20, 600, "with about 27 forgotten and 600 test patients; this audit has 20 and 600"),
        # .0219902 with .66: 601 / 12.19 = 49.3; the original is above, the candidate's interval reaches it
        ({"original": 0.66}, 49, 600, "right in 66.0 of 100 pairs"),
        ({"original": 0.66}, 49, 600, "retrained models (at most 54.0) in 8 of 10 audits with about 50 forgotten"),
        # the original is not above; .62: .0097851, and 30 * .0097851 < 1; 601 / (600 * .0097851 - 1) = 123.4
        ({"original": 0.62}, 30, 30, "by no number of forgotten patients with 30 test patients: more of those"),
        ({"original": 0.62}, 30, 600, "with about 124 forgotten and 600"),
        # 12 ((.95 - .54) / 2.8015852)^2 = .25700; 601 / 153.2 = 3.9, but fewer than 10 never pass
        ({"original": 0.95, "auc": 0.54, "half": 0.45}, 5, 600, "with about 10 forgotten"),
        # and never fewer than 10 test patients
        ({"original": 0.95, "auc": 0.54, "half": 0.45}, 30, 9, "and 10 test patients; this audit has 30 and 9"),
    ],
)
def test_the_patients_that_an_inconclusive_audit_lacks(figure, n_forget, n_test, said):
    result = verdict(figures(**{"auc": 0.58, **figure}), n_forget=n_forget, n_test=n_test)
    assert result.decision == "inconclusive"
    assert len(result.advice) == 2
    assert said in result.advice[1]


@pytest.mark.parametrize(
    ("figure", "n_forget"),
    [
        ({"auc": 0.61}, 27),  # as many as the formula asks for
        ({"original": 0.54}, 30),  # the original shows nothing, whatever the number
        ({"original": 0.50}, 30),
        ({}, 9),  # told apart by the headline: only the smallest number is lacking
    ],
)
def test_no_number_of_patients_where_their_number_is_not_what_lacks(figure, n_forget):
    result = verdict(figures(**figure), n_forget=n_forget)
    assert result.decision == "inconclusive"
    assert len(result.advice) == 1


def test_with_so_many_patients_the_original_is_told_from_the_retrained_models():
    """The promise of the advice: the original's interval lies above their range in about 8 of 10 audits or more."""
    rng = np.random.default_rng(0)
    result = verdict(figures(original=0.62), n_forget=30, n_test=200)
    needed = int(result.advice[1].split("with about ")[1].split()[0])
    member = np.arange(needed + 200) < needed
    shift = np.sqrt(2) * stats.norm.ppf(0.62)
    told = [delong_interval(rng.normal(size=member.size) + shift * member, member).low > 0.54 for _ in range(400)]
    assert np.mean(told) == pytest.approx(0.8, abs=0.06)


def test_held_out_retrained_models_pass():
    criteria = figures()
    assert [verdict(as_candidate(criteria, i)).decision for i in range(3)] == ["pass"] * 3
    assert len(as_candidate(criteria, 0)[0].retrained) == 2


def test_a_held_out_model_is_not_compared_with_itself():
    lonely = [replace(c, retrained=(reading(0.9, 0.01), *c.retrained[1:])) if c.headline else c for c in figures()]
    assert meanings(as_candidate(lonely, 0)) == {"loss_auc": "remembered"}


@pytest.mark.parametrize(("n_forget", "n_test"), [(3, 600), (9, 600), (30, 9)])
def test_too_few_patients_never_pass(n_forget, n_test):
    result = verdict(figures(), n_forget=n_forget, n_test=n_test)
    assert result.decision == "inconclusive"
    assert "Audit too small" in result.reasons[0]


def test_too_few_patients_still_fail_when_remembered():
    assert verdict(as_candidate(figures(original=0.95), "original"), n_forget=3).decision == "fail"


def test_a_figure_without_interval_is_not_judged_and_not_passed():
    criteria = [replace(c, candidate=unknown()) if c.key == "forget_accuracy" else c for c in figures()]
    result = verdict(criteria)
    assert result.decision == "inconclusive"
    assert result.reasons[0] == "Cannot be judged (one patient on one side): forget_accuracy."
    assert "Retraining" in result.advice[0]
    without_original = [replace(c, original=unknown()) if c.headline else c for c in figures()]
    assert verdict(without_original).decision == "inconclusive"


def test_retrained_models_all_alike_leave_the_own_interval():
    alike = [replace(c, retrained=(c.retrained[1],) * 3) for c in figures()]
    assert verdict(alike).decision == "pass"
    assert meanings([replace(c, candidate=reading(0.63)) if c.headline else c for c in alike]) == {
        "loss_auc": "remembered"
    }


@pytest.mark.parametrize(
    ("test", "retrained", "half", "decision"),
    [
        (0.916, (0.92, 0.94), 0.001, "pass"),  # 0.019 lower: tolerated, although below the range
        (0.910, (0.90, 0.94), 0.001, "pass"),  # retraining costs as much
        (0.910, (0.92, 0.94), 0.001, "fail"),
        (0.910, (0.92, 0.94), 0.05, "inconclusive"),  # too few test patients to say
        (0.99, (0.92, 0.94), 0.001, "pass"),  # more useful is no harm
    ],
)
def test_usefulness_is_lost_below_the_margin_and_the_retrained_range(test, retrained, half, decision):
    useful = criterion("test_auc", "test_auc", 0.935, test, retrained, half)
    assert verdict([*figures()[:-1], useful]).decision == decision


def test_the_limits_of_what_could_be_seen():
    result = verdict(figures())
    assert result.largest_unnoticed_auc == pytest.approx(0.70 - 0.1)  # step 4; step 1 would allow 0.54 + 0.1
    assert verdict(figures(original=0.80)).largest_unnoticed_auc == pytest.approx(0.54 + 0.1)
    # (1.95996 + 0.84162) * sqrt(631 / (12 * 30 * 600)) = 0.15142
    assert result.detectable_auc == pytest.approx(0.54 + 0.15142, abs=1e-4)
    assert verdict(figures(), n_forget=3).detectable_auc is None


@pytest.mark.parametrize("original", [0.30, 0.42, 0.52, 0.60])
def test_an_audit_that_can_see_nothing_states_no_limit(original):
    """Once the first page said: right in up to -1 of 100 pairs."""
    result = verdict(figures(original=original))
    assert not result.informative
    assert result.largest_unnoticed_auc is None


@pytest.mark.parametrize(("original", "beyond"), [(0.70, "inconclusive"), (0.80, "fail")])
def test_up_to_the_stated_limit_it_passes_and_beyond_it_does_not(original, beyond):
    limit = verdict(figures(original=original)).largest_unnoticed_auc
    assert verdict(figures(original=original, auc=limit - 1e-6)).decision == "pass"
    assert verdict(figures(original=original, auc=limit + 1e-6)).decision == beyond


def test_exactly_one_headline():
    with pytest.raises(AuditError, match="one headline"):
        verdict([replace(c, headline=False) for c in figures()])


def test_the_headline_is_judged_at_the_full_level_and_the_others_share_one_error():
    options = AuditOptions().with_attacks({"retrained"})
    assert options.attacks == ("loss", "entropy", "modified_entropy", "svc", "calibrated", "rmia")
    assert options.level_of("loss") == 0.95
    assert options.level_of("svc") == options.level_of("people") == pytest.approx(1 - 0.05 / 7)
    alone = AuditOptions(attacks=("loss",))
    assert alone.level_of("loss") == 0.95
    assert alone.level_of("people") == pytest.approx(1 - 0.05 / 2)


def test_attacks_follow_from_what_was_made_unless_they_are_named():
    made = AuditOptions().with_attacks({"retrained", "shadows", "unlearned_shadows"}).attacks
    assert made[-2:] == ("lira", "u_lira")
    named = AuditOptions(attacks=("loss", "rmia"))
    assert named.with_attacks({"shadows"}) is named


def test_people_who_stand_out_are_a_finding_and_their_absence_is_none():
    def with_people(exposed, marked):
        return [
            *figures(),
            criterion("exposed", "exposed", 0.5, exposed, (0.0, 0.05, 0.1), 0.05),
            criterion("marked_out", "marked_out", 0.0, marked, (0.1, 0.15, 0.2), 0.05),
        ]

    assert meanings(with_people(0.1, 0.15)) == {}
    assert meanings(with_people(0.2, 0.15)) == {"exposed": "remembered"}
    assert meanings(with_people(0.1, 0.3)) == {"marked_out": "over_forgotten"}
    # fewer than under any retrained model: nobody is harmed
    assert meanings(with_people(0.1, 0.0)) == {}


def test_options_name_everything_that_is_wrong():
    with pytest.raises(ConfigError) as caught:
        AuditOptions(attacks=("los", "published_svc"), headline="loss", n_bootstrap=10, min_patients=1, level=0.1)
    text = str(caught.value)
    for part in ("Did you mean 'loss'", "published_svc", "headline", "n_bootstrap", "min_patients", "level"):
        assert part in text
