"""The verdict's words: what the rule found, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from forgetmi.audit.criteria import Criterion, Decision, Finding, Kind, Meaning, Reading
from forgetmi.audit.options import AuditOptions
from forgetmi.metrics.power import POWER, patients_needed

PLAIN: dict[Meaning, str] = {
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
SENTENCES: dict[tuple[Kind, Meaning | None], str] = {
    ("attack", None): "As far as so many patients can show, the attack works as on models that never saw them.",
    ("attack", "remembered"): "The attack recognises the patients better than on models that never saw them.",
    ("attack", "over_forgotten"): "The patients stand out: the model answers worse on them than if never seen.",
    ("exposed", None): "Hardly anyone stands out more than under models that never saw them.",
    ("exposed", "remembered"): "Single patients stand out as known, although the average may look harmless.",
    ("marked_out", None): "Hardly anyone is treated worse than under models that never saw them.",
    ("marked_out", "over_forgotten"): "Single patients stand out because the model treats them abnormally badly.",
    ("forget_accuracy", None): "It is right on these records about as often as models that never saw them.",
    ("forget_accuracy", "remembered"): "It is right on these records more often than models that never saw them.",
    ("forget_accuracy", "over_forgotten"): "It is wrong on these records more often than models that never saw them.",
    ("forget_cross_entropy", None): "These records surprise it about as much as models that never saw them.",
    ("forget_cross_entropy", "remembered"): "These records surprise it less than models that never saw them.",
    ("forget_cross_entropy", "over_forgotten"): "These records surprise it more than models that never saw them.",
    ("memorised", None): "It has no more of these records by heart than models that never saw them.",
    ("memorised", "remembered"): "It has more of these records by heart than models that never saw them.",
    ("test_cross_entropy", None): "It reads other patients' records as well as before, or as retraining would.",
    (
        "test_cross_entropy",
        "utility_lost",
    ): "It reads other patients' records worse than before, and than retraining would.",
    ("test_auc", None): "It serves other patients as well as before, or as well as retraining would.",
    ("test_auc", "utility_lost"): "It serves other patients worse than before, and worse than retraining would.",
}


def plain_sentence(kind: Kind, meaning: Meaning | None) -> str:
    """What a criterion says of the unlearned model, without statistics."""
    return SENTENCES.get((kind, meaning), "Too few patients to say.")


def advice(
    decision: Decision,
    outside: Sequence[Finding],
    headline: Criterion,
    n_forget: int,
    n_test: int,
    options: AuditOptions,
) -> tuple[str, ...]:
    """What can be done now; nothing after a pass."""
    if decision == "pass":
        return ()
    if decision == "inconclusive":
        few = "" if n_forget >= options.min_patients else " Audit several requests together, if that is allowed."
        lacking = _more_patients(headline, n_forget, n_test, options)
        return (f"Do not report this as a success.{few} {_RETRAIN}", *lacking)
    seen = {finding.meaning for finding in outside}
    return tuple(text for meaning, text in _ADVICE.items() if meaning in seen)


def _more_patients(headline: Criterion, n_forget: int, n_test: int, options: AuditOptions) -> tuple[str, ...]:
    """How many patients would tell the original from the retrained models, where this audit did not and has fewer.

    Nothing where the original's value is not above theirs: no number of patients shows what is not there.
    """
    found, scope, high = headline.original.value, headline.range, headline.candidate.interval.high
    if found is None or scope is None or found <= scope[1]:
        return ()
    if headline.position(headline.original) == "above" and (high is None or high < found):
        return ()  # what is lacking is not the precision of the headline
    tests = max(n_test, options.min_patients)
    needed = patients_needed(found, n_nonmembers=tests, level=options.level, reference=scope[1])
    told = (
        f"An attack that is right in {100 * found:.1f} of 100 pairs, as on the original, is told from the retrained "
        f"models (at most {100 * scope[1]:.1f}) in {10 * POWER:.0f} of 10 audits"
    )
    if needed is None:
        return (f"{told} by no number of forgotten patients with {tests} test patients: more of those are needed.",)
    needed = max(needed, options.min_patients)
    if needed <= n_forget and tests == n_test:
        return ()  # enough by the formula: the draw was unlucky, or records of a patient say much the same
    return (
        f"{told} with about {needed} forgotten and {tests} test patients; this audit has {n_forget} and {n_test}. "
        "(Estimated from this audit's own figures.)",
    )


def why_pass(headline: Criterion, criteria: Sequence[Criterion], options: AuditOptions) -> list[str]:
    """Three reasons: the audit could see, it sees nothing now, others are served as before."""
    useful = next((c for c in criteria if c.kind in ("test_auc", "test_cross_entropy")), None)
    reasons = [
        f"The audit could see something: the original's {headline.label} is {shown(headline.original)}, above the "
        f"retrained models ({scope_of(headline)}).",
        f"Now it is {shown(headline.candidate)}, as in a model that never saw the patients. None of the "
        f"{len(criteria)} figures of the rule lies outside.",
    ]
    if useful is not None:
        before, now = useful.original.value, useful.candidate.value
        loss = useful.kind == "test_cross_entropy"
        margin = options.loss_margin if loss else options.utility_margin
        kept = before is not None and now is not None and (now - before if loss else before - now) <= margin
        reasons.append(
            f"The model is as useful as {'before' if kept else 'retraining allows'}: {useful.label} is "
            f"{shown(useful.candidate)}, the original's {shown(useful.original)}, the retrained models' "
            f"{scope_of(useful)}."
        )
    return reasons


def summary(decision: Decision, outside: Sequence[Finding], informative: bool) -> str:
    """The verdict in one sentence."""
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
    blind = not informative and "remembered" not in meanings
    addition = " (Forgetting itself could not be judged.)" if blind else ""
    return text[0].upper() + text[1:] + "." + addition


def number(value: float) -> str:
    """Three places, or two significant digits of what would come out as nearly 0."""
    if value == 0 or not math.isfinite(value) or abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}" if abs(value) >= 1e-6 else f"{value:.1e}"


def p_value(value: float) -> str:
    """A p-value; of very small ones only that they are."""
    return "below 0.0001" if value < 1e-4 else number(value)


def interval(reading: Reading) -> str:
    """``95 % interval 0.445 to 0.659``."""
    low, high = reading.interval.low, reading.interval.high
    if low is None or high is None:
        return "no interval"
    return f"{100 * reading.interval.level:.4g} % interval {number(low)} to {number(high)}"


def shown(reading: Reading) -> str:
    """A value with its interval."""
    return "not known" if reading.value is None else f"{number(reading.value)} ({interval(reading)})"


def scope_of(criterion: Criterion) -> str:
    """The retrained range of a criterion."""
    return "not known" if criterion.range is None else range_of(criterion.range)


def range_of(scope: tuple[float, float]) -> str:
    """``0.512 to 0.565``."""
    return f"{number(scope[0])} to {number(scope[1])}"
