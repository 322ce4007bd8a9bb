"""The verdict: a written rule over a few figures. ``docs/verdict.md`` says it in words; it is coded here and only here.

A figure lies *inside* when its own interval overlaps the range [min, max] of the retrained models' values: the
retrained range, widened by the figure's own interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from forgetmi.audit import wording
from forgetmi.audit.criteria import Criterion, Decision, Finding, Kind, Meaning
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.wording import number
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Position
from forgetmi.metrics.power import detectable_auc

# What it means to lie outside. Usefulness has a rule of its own: more useful than a retrained model is no harm.
_OUTSIDE: dict[tuple[Kind, Position], Meaning] = {
    ("attack", "above"): "remembered",
    ("attack", "below"): "over_forgotten",
    ("exposed", "above"): "remembered",
    ("marked_out", "above"): "over_forgotten",
    ("memorised", "above"): "remembered",
    ("forget_accuracy", "above"): "remembered",
    ("forget_accuracy", "below"): "over_forgotten",
    ("forget_cross_entropy", "below"): "remembered",
    ("forget_cross_entropy", "above"): "over_forgotten",
}


@dataclass(frozen=True)
class Verdict:
    """What the rule says.

    Attributes:
        decision: ``pass``, ``fail`` or ``inconclusive``.
        summary: one sentence.
        reasons: why, in plain words, the weightiest first.
        advice: what can be done now; empty after a pass.
        findings: criteria outside or not judged.
        positions: criterion to where the candidate lies.
        informative: whether the headline attack finds the original's forgotten patients more often than retrained
            models'. Where it does not, nothing could have been detected.
        detectable_auc: the smallest headline AUC that an audit of this many patients would tell from the retrained
            range in 8 of 10 cases, or ``None`` where not even a perfect attack would be.
        largest_unnoticed_auc: a headline AUC up to this one, with an interval as wide, would not stand in the way of a
            pass.
    """

    decision: Decision
    summary: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    findings: tuple[Finding, ...]
    positions: dict[str, Position | None]
    informative: bool
    detectable_auc: float | None
    largest_unnoticed_auc: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        lists = {"reasons": list(self.reasons), "advice": list(self.advice)}
        return {**asdict(self), **lists, "findings": [asdict(finding) for finding in self.findings]}


def judge(
    criteria: Sequence[Criterion], *, n_forget_patients: int, n_test_patients: int, options: AuditOptions
) -> Verdict:
    """Apply the rule, in this order.

    1. A criterion outside -> ``fail``. What is seen is seen, whatever could not be.
    2. Too few patients, or a criterion that cannot be judged -> ``inconclusive``.
    3. The original's headline AUC not above the retrained range (own interval) -> ``inconclusive``: not informative.
    4. The candidate's headline interval reaches the original's value -> ``inconclusive``: it overlaps the retrained
       range only because it is wide.
    5. Else ``pass``.

    Args:
        criteria: one of them the headline attack.
        n_forget_patients, n_test_patients: what the figures rest on.
        options: margin, level and smallest number of patients.

    Raises:
        AuditError: not exactly one headline attack.
    """
    headlines = [criterion for criterion in criteria if criterion.headline]
    if len(headlines) != 1:
        raise AuditError(f"the rule needs one headline attack, not {len(headlines)}")
    headline = headlines[0]
    findings = [f for f in (_finding(c, options) for c in criteria) if f is not None]
    outside = [f for f in findings if f.meaning != "not_judged"]
    doubts = _doubts(criteria, headline, findings, n_forget_patients, n_test_patients, options)
    informative = headline.position(headline.original) == "above"
    decision: Decision = "fail" if outside else "inconclusive" if doubts else "pass"
    reasons = [f.sentence for f in outside] + doubts
    if decision == "pass":
        reasons = wording.why_pass(headline, criteria, options)
    limits = _limits(headline, n_forget_patients, n_test_patients, options.level)
    return Verdict(
        decision=decision,
        summary=wording.summary(decision, outside, informative),
        reasons=tuple(reasons),
        advice=wording.advice(decision, outside, headline, n_forget_patients, n_test_patients, options),
        findings=tuple(findings),
        positions={c.key: c.position(c.candidate) for c in criteria},
        informative=informative,
        detectable_auc=limits[0],
        largest_unnoticed_auc=limits[1] if informative else None,
    )


def _finding(criterion: Criterion, options: AuditOptions) -> Finding | None:
    candidate, position = criterion.candidate, criterion.position(criterion.candidate)
    if position is None or candidate.value is None or criterion.range is None:
        return Finding(criterion.key, "not_judged", f"{criterion.label} cannot be judged: {_why(criterion)}.")
    if criterion.kind in ("test_auc", "test_cross_entropy"):
        return _utility(criterion, candidate.value, criterion.range, options)
    # fewer people who stand out, or less known by heart, than under any retrained model: no harm
    if position == "inside" or (criterion.kind in ("exposed", "marked_out", "memorised") and position == "below"):
        return None
    meaning = _OUTSIDE[criterion.kind, position]
    compared = (
        f"{criterion.label} is {number(candidate.value)} ({wording.interval(candidate)}), {position} the retrained "
        f"models ({wording.range_of(criterion.range)})"
    )
    return Finding(criterion.key, meaning, f"{wording.PLAIN[meaning]}: {compared}.")


def _utility(criterion: Criterion, value: float, scope: tuple[float, float], options: AuditOptions) -> Finding | None:
    """Worse than the original by more than the margin, and than any retrained model: lost, or perhaps lost."""
    loss = criterion.kind == "test_cross_entropy"  # of a loss, more is worse
    before, margin = criterion.original.value, options.loss_margin if loss else options.utility_margin
    worse = "higher" if loss else "lower"
    if before is None or (change := value - before if loss else before - value) <= margin:
        return None
    if value <= scope[1] if loss else value >= scope[0]:
        return None
    compared = (
        f"{criterion.label} is {number(value)} ({wording.interval(criterion.candidate)}), {number(change)} "
        f"{worse} than the original's {number(before)} (tolerated: {margin:g}) and {worse} than the "
        f"retrained models' ({wording.range_of(scope)})"
    )
    if criterion.position(criterion.candidate) == ("above" if loss else "below"):
        return Finding(criterion.key, "utility_lost", f"{wording.PLAIN['utility_lost']}: {compared}.")
    return Finding(criterion.key, "not_judged", f"{compared}; with so few test patients this may be chance.")


def _not_judged(criteria: Sequence[Criterion], findings: Sequence[Finding]) -> list[str]:
    """One sentence a reason, not one a figure."""
    labels: dict[str, list[str]] = {}
    for criterion in criteria:
        if criterion.position(criterion.candidate) is None:
            labels.setdefault(_why(criterion), []).append(criterion.label)
    together = [f"Cannot be judged ({why}): {', '.join(names)}." for why, names in labels.items()]
    known = {criterion.key for criterion in criteria if criterion.position(criterion.candidate) is not None}
    return together + [f.sentence for f in findings if f.meaning == "not_judged" and f.criterion in known]


def _why(criterion: Criterion) -> str:
    return criterion.candidate.interval.reason or "a model has no value"


def _doubts(
    criteria: Sequence[Criterion],
    headline: Criterion,
    findings: Sequence[Finding],
    n_forget: int,
    n_test: int,
    options: AuditOptions,
) -> list[str]:
    doubts = [
        f"Audit too small: {n} {part} patient{'s' * (n != 1)}, and at least {options.min_patients} are needed for a "
        "pass. Attacks on groups of patients cannot clear so few people."
        for part, n in (("forgotten", n_forget), ("test", n_test))
        if n < options.min_patients
    ]
    doubts += _not_judged(criteria, findings)
    original, candidate, scope = headline.original, headline.candidate, headline.range
    if original.value is None or original.interval.low is None or scope is None:
        return [*doubts, "Whether anything could have been detected is unknown: the original has no headline figure."]
    if headline.position(original) != "above":
        doubts.append(
            f"Nothing could have been detected: already the original's {headline.label} of "
            f"{number(original.value)} ({wording.interval(original)}) is not above the retrained models "
            f"({wording.range_of(scope)})."
        )
    elif (
        headline.position(candidate) == "inside"
        and candidate.interval.high is not None
        and candidate.interval.high >= original.value
    ):
        doubts.append(
            f"Too imprecise to tell: the interval of the {headline.label} ({wording.interval(candidate)}) reaches "
            f"the retrained models ({wording.range_of(scope)}) and also the original's {number(original.value)}."
        )
    return doubts


def _limits(headline: Criterion, n_forget: int, n_test: int, level: float) -> tuple[float | None, float | None]:
    """(detectable AUC, the largest AUC that would not stand in the way of a pass)."""
    if headline.range is None:
        return None, None
    highest = headline.range[1]
    detectable = detectable_auc(n_forget, n_test, level=level, reference=highest)
    candidate = headline.candidate
    unnoticed = None
    if candidate.value is not None and candidate.interval.low is not None:
        unnoticed = min(1.0, highest + candidate.value - candidate.interval.low)
        if headline.original.value is not None and candidate.interval.high is not None:  # step 4 of the rule
            unnoticed = min(unnoticed, headline.original.value - (candidate.interval.high - candidate.value))
    return detectable, unnoticed
