"""The exposure audit's words: what its rule found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetmi.audit.comparison import ATTACK_LABELS
from forgetmi.audit.exposure_rule import ExposureOptions, Limits, Look, Outcome, is_small
from forgetmi.audit.signals_table import SignalsTable
from forgetmi.audit.wording import number, p_value
from forgetmi.metrics.intervals import Interval

_AGAIN = "Then audit again, with people who were not used for choosing settings."


@dataclass(frozen=True)
class Said:
    """What the rule found, to be put into words.

    Attributes:
        model: that is asked about.
        outcome, found, explained, limits: as the rule gives them.
        n_members, n_others: people.
        n_retrained: retrained models that were attacked as well.
        controls: outsiders against outsiders.
        table: the file.
    """

    model: str
    outcome: Outcome
    found: Sequence[Look]
    explained: Sequence[Look]
    limits: Limits
    n_members: int
    n_others: int
    n_retrained: int
    controls: Sequence[Mapping[str, Any]]
    table: SignalsTable

    @property
    def people(self) -> str:
        """Who is looked for."""
        return "people who were to be forgotten" if self.model == "unlearned" else "people who were in training"


def words(said: Said, options: ExposureOptions) -> dict[str, Any]:
    """Summary, reasons, limit, advice and cautions."""
    return {
        "summary": _summary(said, options),
        "reasons": _reasons(said, options),
        "limit": _limit(said),
        "advice": _advice(said, options),
        "cautions": _cautions(said, options),
    }


def _summary(said: Said, options: ExposureOptions) -> str:
    if said.outcome == "exposed":
        again = "still " if said.model == "unlearned" else ""
        return f"Evidence of exposure was found: {said.people} can {again}be told from people who were not."
    if said.outcome == "none_found":
        return "No evidence of exposure was found, down to the limit stated."
    if said.explained:
        return "This audit cannot say: the two groups of people differ, memory or not. It is no all-clear."
    return "This audit is too small to say. It is no all-clear."


def _reasons(said: Said, options: ExposureOptions) -> list[str]:
    away = [id(one) for one in said.explained]
    memory = [one for one in said.found if id(one) not in away]
    if memory:
        return [
            *(_finding(one, said) for one in _strongest(memory)),
            f"In all, {len(memory)} of {said.limits.n_looks} looks (every attack twice: its ranking, and people who "
            "stand out) find them: section 2 lists each.",
        ]
    reasons = [
        f"{_finding(one, said)} But all {said.n_retrained} retrained models, which never saw these people, show as "
        "much: the two groups differ, in time, site or illness, and that alone tells them apart."
        for one in _strongest(said.explained)
    ]
    if is_small(said.n_members, said.n_others, said.limits, options):
        reasons.append(_small(said, options))
    elif said.outcome == "none_found":
        reasons.append(
            f"Of {said.limits.n_looks} looks (every attack twice: its ranking, and people who stand out) not one "
            "differs from chance by more than so many looks do by themselves."
        )
    return reasons


def _strongest(found: Sequence[Look]) -> list[Look]:
    """The most striking look of each kind and direction."""
    best: dict[tuple[str, str], Look] = {}
    for one in found:
        key = (one.kind, one.direction)
        if key not in best or (one.p_adjusted, -_off(one)) < (best[key].p_adjusted, -_off(best[key])):
            best[key] = one
    return list(best.values())


def _off(one: Look) -> float:
    return abs(one.value - 0.5) if one.kind == "ranking" else one.value


def _finding(one: Look, said: Said) -> str:
    label = ATTACK_LABELS.get(one.attack, one.attack)
    label = label[0].upper() + label[1:]
    ends = f"({_interval(one.interval)}; adjusted p {p_value(one.p_adjusted)})"
    if one.kind == "standing_out":
        side = "above" if one.direction == "known" else "below"
        which = f"{one.count} of {said.n_members} people are scored {side} every one of {said.n_others} outsiders"
        return f"{label}: {which} {ends}."
    right = 100.0 * max(one.value, 1.0 - one.value)
    how = "" if one.direction == "known" else ", because the model treats them worse than outsiders"
    rate = f"it points at the right one of two in {right:.0f} of 100 pairs{how}"
    return f"{label}: {rate} (AUC {number(one.value)}, {ends[1:]}."


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "no interval"
    return f"{100 * interval.level:.4g} % interval {number(interval.low)} to {number(interval.high)}"


def _small(said: Said, options: ExposureOptions) -> str:
    sizes = (
        f"{said.n_members} {'person' if said.n_members == 1 else 'people'} and {said.n_others} "
        f"outsider{'s' * (said.n_others != 1)}"
    )
    if min(said.n_members, said.n_others) < options.min_patients:
        return f"Too small: {sizes}, and at least {options.min_patients} of each are needed to say that none was found."
    if said.limits.detectable_auc is None:
        return f"Too small: with {sizes} not even an attack that is always right would be found reliably."
    return (
        f"Too small: with {sizes} an attack that is right in fewer than {100 * said.limits.detectable_auc:.0f} of 100 "
        f"pairs may well be missed; to say that none was found, {100 * options.largest_limit:.0f} must be found."
    )


def _limit(said: Said) -> str:
    if said.limits.detectable_auc is None:
        first = "With so few people not even an attack that is always right is found reliably."
    else:
        first = (
            f"An attack that is right in {100 * said.limits.detectable_auc:.0f} of 100 pairs or more (50 is guessing) "
            "is found in at least 8 of 10 such audits; a weaker one may be missed."
        )
    if said.limits.noticed_people is None:
        return f"{first} However many people were scored beyond every outsider, it would not be noticed."
    each = [np.unique(said.table.parts[part].patients, return_counts=True)[1] for part in ("forget", "test")]
    unequal = ", if all had as many records" if np.unique(np.concatenate(each)).size > 1 else ""
    return (
        f"{first} {said.limits.noticed_people} or more of {said.n_members} people scored beyond every outsider would "
        f"be noticed{unequal}; fewer may not."
    )


def _advice(said: Said, options: ExposureOptions) -> list[str]:
    if said.outcome == "none_found":
        return []
    if said.outcome == "cannot_tell":
        advice = ["Do not report this as a success."]
        if said.explained:
            advice.append("Take outsiders of the same time, sites and illnesses as the people who were in training.")
        if is_small(said.n_members, said.n_others, said.limits, options):
            advice.append("More people on both sides narrow the limit; several requests may be audited together.")
        return advice
    directions = {one.direction for one in said.found}
    if said.model != "unlearned":
        return [
            "Do not give this model, or its probabilities, to anybody who must not know who was in its training data.",
            "Less training, stronger regularisation or differentially private training lower the exposure. " + _AGAIN,
        ]
    advice = []
    if "known" in directions:
        advice.append(
            f"Do not treat these people as forgotten. Unlearn more strongly, or retrain without them. {_AGAIN}"
        )
    if "marked" in directions:
        advice.append(f"People are found because the model treats them worse: unlearn less strongly. {_AGAIN}")
    return advice


def _cautions(said: Said, options: ExposureOptions) -> list[str]:
    table, cautions = said.table, []
    if not said.n_retrained:
        cautions.append(
            "Without retrained models nobody knows what never having been seen looks like: where the two groups of "
            "people differ (in time, site or illness), an attack finds that difference too."
        )
    if not any(table.references(kind) for kind in ("shadows", "unlearned_shadows")):
        cautions.append(
            "No shadow models were given: attacks that look at each record separately could not be tried, and they are "
            "the strongest."
        )
    cautions += [
        f"Two groups of outsiders differ as well: {control['first']} against {control['second']} people have an AUC of "
        f"{number(control['auc']['value'])} (p {p_value(control['p'])}), and nobody trained on either. The split "
        "itself may tell people apart."
        for control in said.controls
        if control["p"] <= options.alpha
    ]
    signals = {part: table.signals(said.model, part) for part in ("forget", "test")}
    for name in signals["forget"]:
        if np.unique(np.concatenate([np.asarray(found[name]).ravel() for found in signals.values()])).size == 1:
            cautions.append(f"All records have the same {name.replace('_', ' ')}: nobody can be told apart by that.")
    each = [len(part.patients) / part.n_patients for part in (table.parts["forget"], table.parts["test"])]
    if max(each) > 1.25 * min(each):
        cautions.append(
            f"People have {each[0]:.1f} records each, outsiders {each[1]:.1f}. A person's score is that of their "
            "highest record: more records make it higher, memory or not. Who stands out is judged among people with as "
            "many records; the counts of people named are not."
        )
    for name in ("shadows", "unlearned_shadows"):
        models = table.references(name)
        if models:
            shares = [float(np.mean([table.seen[model][part] for model in models])) for part in ("forget", "test")]
            if abs(shares[0] - shares[1]) > 0.2:
                cautions.append(
                    f"The {len(models)} {name.replace('_', ' ')} saw {100 * shares[0]:.0f} % of the people's "
                    f"records and {100 * shares[1]:.0f} % of the outsiders'. They should be drawn alike: otherwise an "
                    "attack may find how the shadow models were made."
                )
    return cautions
