"""Further questions to each model: what it writes, and what attacks that change or ask it bring back.

A probe is made of values of records, so that its figure has an interval by patient like every other. One that is judged
takes part in the verdict: an attack by its AUC on both sides of the retrained models, what is remembered above them
alone (to write less than a retrained model would is no harm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, measure
from forgetmi.metrics.intervals import Interval, PatientBootstrap, auc_interval
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints, auc_statistic

Group = Literal["memorisation", "quantisation", "relearning", "extraction", "hierarchical"]
ProbeKind = Literal["attack", "memorised"]
GROUPS: Mapping[Group, str] = {
    "memorisation": "What it has by heart",
    "extraction": "What it says when it is asked",
    "quantisation": "After its weights were rounded (quantisation attack)",
    "relearning": "After a few records were taught again (relearning attack)",
    "hierarchical": "Asked with more and more of what surrounds a record",
}


@dataclass(frozen=True)
class Probe:
    """One question to one model.

    Attributes:
        key: its name in ``evidence.json``, the same for every model.
        group: under which heading it stands.
        label: in plain words.
        values: of the records of ``part``, NaN where a record has none; higher: better known.
        part: whose records.
        outsiders: the same of test records: then the figure is the AUC of forgotten against test records, otherwise the
            mean.
        judged: whether the verdict looks at it.
        one_sided: to lie below the retrained models is no harm, although there are outsiders.
    """

    key: str
    group: Group
    label: str
    values: PerExample
    part: str = "forget"
    outsiders: PerExample | None = None
    judged: bool = False
    one_sided: bool = False

    @property
    def kind(self) -> ProbeKind:
        """How the verdict reads it."""
        return "memorised" if self.one_sided or self.outsiders is None else "attack"


@dataclass(frozen=True)
class ProbeFigure:
    """A probe's figure on one model, and the interval at which it is judged; ``None`` for one that is not."""

    probe: Probe
    figure: Figure
    judged: Interval | None


def probe_figure(
    probe: Probe,
    patients: Mapping[str, Ints],
    draw: tuple[np.random.Generator, np.random.Generator],
    *,
    n_resamples: int,
    level: float,
    judged_level: float,
) -> ProbeFigure:
    """The figure of a probe.

    Args:
        probe: the question's answers.
        patients: part to patient codes, one a record.
        draw: generators of the two intervals; the same for all models.
        n_resamples: of patients.
        level: of the interval that is shown.
        judged_level: of the one that the verdict looks at.

    Raises:
        AuditError: not one value a record.
    """
    settings = {"n_resamples": n_resamples}
    own = patients[probe.part]
    if probe.values.values.shape != own.shape:
        raise AuditError(f"probe {probe.key!r}: {probe.values.values.size} values for {own.size} records")
    if probe.outsiders is None:
        figure = probe.values.figure(own, draw[0], **settings, level=level)
        judged = probe.values.figure(own, draw[1], **settings, level=judged_level).interval if probe.judged else None
        return ProbeFigure(probe, figure, judged)
    others = patients["test"]
    if probe.outsiders.values.shape != others.shape:
        raise AuditError(f"probe {probe.key!r}: {probe.outsiders.values.size} values for {others.size} test records")
    scores, member, who = _sides(probe.values, own, probe.outsiders, others)
    if not member.any() or member.all():
        reason = f"one side has no record with a value: {probe.values.missing}"
        interval = Interval.none(reason, n_patients=np.unique(who).size, level=level)
        figure = Figure(
            probe.key, None, interval, np.unique(who).size, who.size, "remembers_above", reason, reason=reason
        )
        return ProbeFigure(probe, figure, interval if probe.judged else None)
    figure = measure(
        probe.key,
        auc_statistic(scores, member),
        PatientBootstrap(who, draw[0], strata=member, **settings, level=level),
        direction="remembers_above",
        sentence="A forgotten record scores higher than a test record in {value:.3f} of all pairs.",
        bounds=(0.0, 1.0),
    )
    judged = auc_interval(scores, member, who, draw[1], **settings, level=judged_level) if probe.judged else None
    return ProbeFigure(probe, figure, judged)


def _sides(
    values: PerExample, own: Ints, outsiders: PerExample, others: Ints
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]], Ints]:
    first, second = values.known, outsiders.known
    scores = np.concatenate([values.values[first], outsiders.values[second]])
    member = np.repeat([True, False], [int(first.sum()), int(second.sum())])
    return scores, member, np.concatenate([own[first], others[second]])
