"""The verdict: a written rule over a few figures. ``docs/verdict.md`` says it in words; it is coded here and only here.

A figure lies *inside* when its own interval overlaps the range [min, max] of the retrained models' values: the
retrained range, widened by the figure's own interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from scipy import stats

from forgetmi.audit.options import AuditOptions
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Position
from forgetmi.metrics.forgetting import gap_to_retrained
from forgetmi.metrics.intervals import Interval, null_auc_sd

Kind = Literal["attack", "forget_accuracy", "forget_cross_entropy", "test_auc"]
Decision = Literal["pass", "fail", "inconclusive"]
Meaning = Literal["remembered", "over_forgotten", "utility_lost", "not_judged"]
_POWER = 0.8

# What it means to lie outside. Test AUC has a rule of its own: more useful than a retrained model is no harm.
_OUTSIDE: dict[tuple[Kind, Position], Meaning] = {
    ("attack", "above"): "remembered",
    ("attack", "below"): "over_forgotten",
    ("forget_accuracy", "above"): "remembered",
    ("forget_accuracy", "below"): "over_forgotten",
    ("forget_cross_entropy", "below"): "remembered",
    ("forget_cross_entropy", "above"): "over_forgotten",
}
_PLAIN: dict[Meaning, str] = {
    "remembered": "Still remembered",
    "over_forgotten": "Over-forgotten",
    "utility_lost": "Usefulness lost",
}


_RETRAIN = "Retraining without these patients is the answer that needs no audit."
_AGAIN = (
    "Choose settings on validation data and audit anew; a model that was tuned against its own audit is not audited."
)
_ADVICE: dict[Meaning, str] = {
    "remembered": f"Do not treat the patients as forgotten. Unlearn more strongly, or retrain. {_AGAIN}",
    "over_forgotten": f"Unlearn less strongly: fewer steps or a smaller learning rate. {_AGAIN}",
    "utility_lost": f"Do not use this model in place of the original. Unlearn less strongly, or retrain. {_AGAIN}",
}

# For a reader without statistics: (kind, meaning) to a sentence about the unlearned model. None: inside.
_SENTENCES: dict[tuple[Kind, Meaning | None], str] = {
    ("attack", None): "As far as so many patients can show, the attack works as on models that never saw them.",
    ("attack", "remembered"): "The attack recognises the patients better than on models that never saw them.",
    ("attack", "over_forgotten"): "The patients stand out: the model answers worse on them than if never seen.",
    ("forget_accuracy", None): "It is right on these records about as often as models that never saw them.",
    ("forget_accuracy", "remembered"): "It is right on these records more often than models that never saw them.",
    ("forget_accuracy", "over_forgotten"): "It is wrong on these records more often than models that never saw them.",
    ("forget_cross_entropy", None): "These records surprise it about as much as models that never saw them.",
    ("forget_cross_entropy", "remembered"): "These records surprise it less than models that never saw them.",
    ("forget_cross_entropy", "over_forgotten"): "These records surprise it more than models that never saw them.",
    ("test_auc", None): "It serves other patients as well as before, or as well as retraining would.",
    ("test_auc", "utility_lost"): "It serves other patients worse than before, and worse than retraining would.",
}


@dataclass(frozen=True)
class Reading:
    """A value and its interval; ``value`` is ``None`` where it cannot be had, ``interval.reason`` says why."""

    value: float | None
    interval: Interval


@dataclass(frozen=True)
class Criterion:
    """One figure that the rule looks at, of all models.

    Attributes:
        key: its name in ``evidence.json``.
        label: its name in plain words.
        kind: what it measures, hence what lying outside means.
        original, candidate: of the two models; the candidate is the unlearned one, or a control in its place.
        retrained: values of the retrained models.
        headline: whether this is the headline attack.
    """

    key: str
    label: str
    kind: Kind
    original: Reading
    candidate: Reading
    retrained: tuple[Reading, ...]
    headline: bool = False

    @property
    def range(self) -> tuple[float, float] | None:
        """[min, max] of the retrained models; ``None`` if one has no value."""
        values = [reading.value for reading in self.retrained if reading.value is not None]
        return (min(values), max(values)) if values and len(values) == len(self.retrained) else None

    def position(self, reading: Reading) -> Position | None:
        """Where a reading's interval lies; ``None`` if that cannot be said."""
        if reading.value is None or reading.interval.low is None or self.range is None:
            return None
        return gap_to_retrained(reading.value, self.range, reading.interval).position_widened


@dataclass(frozen=True)
class Finding:
    """A criterion on which the candidate lies outside, or that cannot be judged."""

    criterion: str
    meaning: Meaning
    sentence: str


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
        largest_unnoticed_auc: up to this headline AUC the candidate would have counted as inside.
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
        reasons = _why_pass(headline, criteria)
    limits = _limits(headline, n_forget_patients, n_test_patients, options.level)
    return Verdict(
        decision=decision,
        summary=_summary(decision, outside, informative),
        reasons=tuple(reasons),
        advice=_advice(decision, outside, n_forget_patients, options),
        findings=tuple(findings),
        positions={c.key: c.position(c.candidate) for c in criteria},
        informative=informative,
        detectable_auc=limits[0],
        largest_unnoticed_auc=limits[1],
    )


def as_candidate(criteria: Sequence[Criterion], role: Literal["original"] | int) -> list[Criterion]:
    """The same criteria with a control in the candidate's place: the original, or retrained model number ``role``.

    A retrained model is held out: it is judged against the others.
    """
    if role == "original":
        return [replace(c, candidate=c.original) for c in criteria]
    return [
        replace(c, candidate=c.retrained[role], retrained=tuple(r for i, r in enumerate(c.retrained) if i != role))
        for c in criteria
    ]


def plain_sentence(kind: Kind, meaning: Meaning | None) -> str:
    """What a criterion says of the unlearned model, without statistics."""
    return _SENTENCES.get((kind, meaning), "Too few patients to say.")


def _finding(criterion: Criterion, options: AuditOptions) -> Finding | None:
    candidate, position = criterion.candidate, criterion.position(criterion.candidate)
    if position is None or candidate.value is None or criterion.range is None:
        return Finding(criterion.key, "not_judged", f"{criterion.label} cannot be judged: {_why(criterion)}.")
    if criterion.kind == "test_auc":
        return _utility(criterion, candidate.value, criterion.range, options)
    if position == "inside":
        return None
    meaning = _OUTSIDE[criterion.kind, position]
    compared = (
        f"{criterion.label} is {candidate.value:.3f} ({_interval(candidate)}), {position} the retrained models "
        f"({_range(criterion.range)})"
    )
    return Finding(criterion.key, meaning, f"{_PLAIN[meaning]}: {compared}.")


def _utility(criterion: Criterion, value: float, scope: tuple[float, float], options: AuditOptions) -> Finding | None:
    """Lower than the original by more than the margin, and than any retrained model: lost, or perhaps lost."""
    before = criterion.original.value
    if before is None or before - value <= options.utility_margin or value >= scope[0]:
        return None
    compared = (
        f"{criterion.label} is {value:.3f} ({_interval(criterion.candidate)}), {before - value:.3f} lower than the "
        f"original's {before:.3f} (tolerated: {options.utility_margin:g}) and lower than the retrained models' "
        f"({_range(scope)})"
    )
    if criterion.position(criterion.candidate) == "below":
        return Finding(criterion.key, "utility_lost", f"{_PLAIN['utility_lost']}: {compared}.")
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


def _advice(decision: Decision, outside: Sequence[Finding], n_forget: int, options: AuditOptions) -> tuple[str, ...]:
    if decision == "pass":
        return ()
    if decision == "inconclusive":
        few = "" if n_forget >= options.min_patients else " Audit several requests together, if that is allowed."
        return (f"Do not report this as a success.{few} {_RETRAIN}",)
    seen = {finding.meaning for finding in outside}
    return tuple(text for meaning, text in _ADVICE.items() if meaning in seen)


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
            f"{original.value:.3f} ({_interval(original)}) is not above the retrained models ({_range(scope)})."
        )
    elif (
        headline.position(candidate) == "inside"
        and candidate.interval.high is not None
        and candidate.interval.high >= original.value
    ):
        doubts.append(
            f"Too imprecise to tell: the interval of the {headline.label} ({_interval(candidate)}) reaches "
            f"the retrained models ({_range(scope)}) and also the original's {original.value:.3f}."
        )
    return doubts


def _why_pass(headline: Criterion, criteria: Sequence[Criterion]) -> list[str]:
    useful = next((c for c in criteria if c.kind == "test_auc"), None)
    reasons = [
        f"The audit could see something: the original's {headline.label} is {_shown(headline.original)}, above the "
        f"retrained models ({_scope(headline)}).",
        f"Now it is {_shown(headline.candidate)}, as in a model that never saw the patients. So it is with all "
        f"{len(criteria)} figures of the rule.",
    ]
    if useful is not None:
        reasons.append(
            f"The model is as useful as before: {useful.label} is {_shown(useful.candidate)}, the original's "
            f"{_shown(useful.original)}, the retrained models' {_scope(useful)}."
        )
    return reasons


def _summary(decision: Decision, outside: Sequence[Finding], informative: bool) -> str:
    if decision == "pass":
        return "No sign that the forgotten patients can still be recognised, down to the limit stated."
    if decision == "inconclusive":
        return "This audit cannot tell whether the patients were forgotten. It is not a pass."
    meanings = {finding.meaning for finding in outside}
    parts = []
    if "remembered" in meanings:
        parts.append("the forgotten patients are still remembered")
    if "over_forgotten" in meanings:
        parts.append("the forgotten patients are recognisable because the model treats them abnormally badly")
    if "utility_lost" in meanings:
        parts.append("the model is no longer as useful for others")
    text = "; ".join(parts)
    addition = "" if informative else " (Forgetting itself could not be judged.)"
    return text[0].upper() + text[1:] + "." + addition


def _limits(headline: Criterion, n_forget: int, n_test: int, level: float) -> tuple[float | None, float | None]:
    """(detectable AUC, largest AUC that would have counted as inside)."""
    if headline.range is None:
        return None, None
    highest = headline.range[1]
    # one-sided power of a two-sided interval; the null variance, by patient, which is the widest near 1/2
    reach = float(stats.norm.ppf(0.5 + level / 2.0) + stats.norm.ppf(_POWER))
    detectable = highest + reach * null_auc_sd(n_forget, n_test)
    candidate = headline.candidate
    unnoticed = None
    if candidate.value is not None and candidate.interval.low is not None:
        unnoticed = min(1.0, highest + candidate.value - candidate.interval.low)
    return (detectable if detectable < 1.0 else None), unnoticed


def _interval(reading: Reading) -> str:
    low, high = reading.interval.low, reading.interval.high
    return "no interval" if low is None else f"{100 * reading.interval.level:.4g} % interval {low:.3f} to {high:.3f}"


def _shown(reading: Reading) -> str:
    return "not known" if reading.value is None else f"{reading.value:.3f} ({_interval(reading)})"


def _scope(criterion: Criterion) -> str:
    return "not known" if criterion.range is None else _range(criterion.range)


def _range(scope: tuple[float, float]) -> str:
    return f"{scope[0]:.3f} to {scope[1]:.3f}"
