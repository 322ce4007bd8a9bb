"""RULI: U-LiRA with kernel densities, and what unlearning did to those who were exposed and to those who were not.

After "Rectifying privacy and efficacy measurements in machine unlearning" (RULI, 2025). Read from its description, not
from its code, which has no licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forgetmi.attacks.membership.moments import as_queries, blocks, counts, moments
from forgetmi.attacks.membership.patients import combine
from forgetmi.attacks.membership.references import ComparingAttack, Scored, check_enough, unknown
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.attacks.membership.u_lira import HELD_OUT, check_laws, held_out_by_retraining, laws_in_words
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.intervals import LEVEL, Interval, clopper_pearson
from forgetmi.metrics.roc import Bools, Floats

SCOTT = "scott"


def ruli_scores(
    target: ArrayLike,
    unlearned: ArrayLike,
    seen: ArrayLike,
    *,
    retrained: ArrayLike | None = None,
    bandwidth: float | str = 1.0,
) -> Floats:
    """Score ln p_u(phi) - ln p_h(phi) of each record [n], by kernel densities; from 0 on it is called unlearned.

    It is the logit of RULI's ratio p_u / (p_u + p_h): the order is the same, and 0 is its 0.5. The ratio itself rounds
    to 0 and 1 and is 0 / 0 far from all references.

    Args:
        target, unlearned, seen, retrained: as in :func:`~forgetmi.attacks.membership.u_lira.u_lira_scores`; of several
            queries a record, the mean of their scores is taken.
        bandwidth: standard deviation of the Gaussian kernel, in units of phi (1.0 is RULI's, the default of the library
            that it uses); or ``"scott"``: of each record and law its own, sd (ddof 1) * count^(-1/5).

    Raises:
        ConfigError: the bandwidth is neither.
        AuditError: shapes do not fit; a record lacks references (two with ``"scott"``); all its references agree.
    """
    if problem := _bandwidth_problem(bandwidth):
        raise ConfigError([problem])
    of_unlearned = _log_density(target, unlearned, seen, True, bandwidth)
    if retrained is None:
        return of_unlearned - _log_density(target, unlearned, seen, False, bandwidth)
    nobody = np.zeros(np.shape(retrained)[:2], dtype=np.bool_)
    return of_unlearned - _log_density(target, retrained, nobody, False, bandwidth)


def _log_density(
    target: ArrayLike, references: ArrayLike, seen: ArrayLike, group: bool, bandwidth: float | str
) -> Floats:
    """Logarithm of the kernel density of each record's value, up to a constant; mean over queries [n]."""
    phi, values, mask = as_queries(target, references, seen)
    n_references, n, _ = values.shape
    count = counts(mask, group)
    own = isinstance(bandwidth, str)
    words = "that trained on them and unlearned them" if group else "that never saw them"
    check_enough(count, 2 if own else 1, words, "train more shadow models, or give the bandwidth as a number")
    width = np.full(phi.shape, np.nan if isinstance(bandwidth, str) else bandwidth)
    if own:
        found = moments(values, mask, group)
        width = np.sqrt(found.squares / (count - 1)[:, None]) * count[:, None] ** -0.2
        # equal values leave a rounding error of their mean behind: that is no spread
        flat = (width <= n_references * np.finfo(np.float64).eps * np.abs(found.mean)).any(axis=1)
        if flat.any():
            raise AuditError(
                f"{int(flat.sum())} of {n} records have the same value under all references {words}",
                fix="give the bandwidth as a number, or reference models of different seeds",
            )
    result = np.empty(n)
    for block in blocks(n_references, n):
        power = -0.5 * np.square((phi[block] - values[:, block]) / width[block])
        power[mask[:, block] != group] = -np.inf
        top = power.max(axis=0)
        logs = top + np.log(np.exp(power - top).sum(axis=0)) - np.log(count[block])[:, None] - np.log(width[block])
        result[block] = logs.mean(axis=1)
    return result


def _bandwidth_problem(bandwidth: float | str) -> str:
    if isinstance(bandwidth, str):
        return "" if bandwidth == SCOTT else f"bandwidth must be a number above 0 or {SCOTT!r}, not {bandwidth!r}"
    return "" if 0.0 < bandwidth < np.inf else f"bandwidth must be a number above 0 or {SCOTT!r}, not {bandwidth}"


@dataclass(frozen=True)
class RuliAttack(ComparingAttack):
    """U-LiRA with kernel densities on the scaled logit; called a member (it was unlearned) from score 0 on.

    RULI takes the TPR at the FPR *nearest* to its target, which may exceed it; here, as everywhere, the largest TPR
    whose realised FPR does not.

    Attributes:
        held_out: as in :class:`~forgetmi.attacks.membership.u_lira.ULiraAttack`.
        bandwidth: as in :func:`ruli_scores`.
    """

    name: ClassVar[str] = "ruli"
    references: ClassVar[tuple[str, ...]] = ("unlearned_shadows",)
    signals: ClassVar[tuple[str, ...]] = ("scaled_logit",)

    held_out: str = "unlearned_shadows"
    bandwidth: float | str = 1.0

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        found = [] if self.held_out in HELD_OUT else [unknown("held_out", self.held_out, HELD_OUT)]
        return found + [problem for problem in (_bandwidth_problem(self.bandwidth),) if problem]

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores by :func:`ruli_scores`."""
        data = self.compared(forget, test, "scaled_logit")
        retrained = held_out_by_retraining(forget, test, "scaled_logit", data) if self.held_out == "retrained" else None
        there = check_laws(data, retrained, 2 if self.bandwidth == SCOTT else 1)
        scores = ruli_scores(data.target, data.references, data.seen, retrained=retrained, bandwidth=self.bandwidth)
        width = "Scott's rule by record" if isinstance(self.bandwidth, str) else f"{self.bandwidth:g}"
        definition = (
            f"RULI: score = ln p(phi; U) - ln p(phi; H), Gaussian kernel densities, bandwidth {width}, phi = scaled "
            f"logit; {laws_in_words(self.held_out)}; {data.target.shape[1]} query(s) a record, mean of their scores; "
            f"reference models: {there}; called a member from a score of 0 on"
        )
        return Scored(scores, definition, {"reference_models": data.kind}, called=scores >= 0.0)


@dataclass(frozen=True)
class ExposureGroup:
    """Forgotten patients who were exposed, or safe, before unlearning.

    Attributes:
        n_patients: how many; ``None``: not published, a small count would follow.
        n_exposed_after: of them exposed after unlearning; ``None`` likewise.
        rate: ``n_exposed_after / n_patients``.
        interval: Clopper-Pearson.
    """

    n_patients: int | None
    n_exposed_after: int | None
    rate: float | None
    interval: Interval


@dataclass(frozen=True)
class VulnerabilityView:
    """What unlearning did to exposed and to safe patients: averages hide both.

    Attributes:
        vulnerable: those exposed under the original model.
        protected: those who were not; exposed afterwards, unlearning itself gave them away.
        n_patients: forgotten patients.
        definition: what counts as exposed.
        min_cell: the smallest count that is published, but for 0.
        patients, exposed_before, exposed_after: [p], for the site's own eyes.
    """

    vulnerable: ExposureGroup
    protected: ExposureGroup
    n_patients: int
    definition: str
    min_cell: int
    patients: NDArray[Any]
    exposed_before: Bools
    exposed_after: Bools

    def to_dict(self) -> Mapping[str, Any]:
        """Counts and rates, JSON-able; no patient."""
        groups = {
            name: {**group.__dict__, "interval": group.interval.to_dict()}
            for name, group in (("vulnerable", self.vulnerable), ("protected", self.protected))
        }
        return {**groups, "n_patients": self.n_patients, "definition": self.definition, "min_cell": self.min_cell}


def vulnerability_view(
    before: ArrayLike,
    after: ArrayLike,
    patients: ArrayLike,
    *,
    before_threshold: float,
    after_threshold: float,
    min_cell: int = 10,
    level: float = LEVEL,
) -> VulnerabilityView:
    """Who was exposed under the original model, who is under the unlearned one.

    A patient is exposed when the highest score of the records reaches the threshold. The thresholds are declared: the
    score that a set share of test patients reaches (``risk_table(...).point.threshold``), rather than 0, which each
    record of a patient reaches by chance half of the time. Counts from 1 to ``min_cell - 1`` are not published: if one
    of the four cells is that small, no cell is, and if a group is, neither group is (the total is known).

    Args:
        before: scores of forget records under the original model [n] (LiRA, RMIA), higher = member.
        after: scores of the same records under the unlearned model [n] (U-LiRA, RULI).
        patients: [n].
        before_threshold, after_threshold: exposed from these scores on.
        min_cell: see above, at least 1.
        level: of the intervals.

    Raises:
        AuditError: shapes differ, a score is not finite, or ``min_cell`` is below 1.
    """
    if min_cell < 1:
        raise AuditError(f"min_cell must be at least 1, not {min_cell}")
    was, now = combine(before, patients, "max"), combine(after, patients, "max")
    exposed_before, exposed_after = was.scores >= before_threshold, now.scores >= after_threshold
    sizes = [int(exposed_before.sum()), int((~exposed_before).sum())]
    hits = [int((exposed_after & exposed_before).sum()), int((exposed_after & ~exposed_before).sum())]
    small_groups = any(0 < size < min_cell for size in sizes)
    cells = [*hits, *(size - hit for size, hit in zip(sizes, hits, strict=True))]
    small_cells = small_groups or any(0 < cell < min_cell for cell in cells)
    vulnerable, protected = (
        _group(None if small_groups else size, None if small_cells else hit, min_cell, level)
        for size, hit in zip(sizes, hits, strict=True)
    )
    return VulnerabilityView(
        vulnerable=vulnerable,
        protected=protected,
        n_patients=exposed_before.size,
        definition=f"exposed: highest score of a patient's records at or above {before_threshold:g} under the original "
        f"and {after_threshold:g} under the unlearned model",
        min_cell=min_cell,
        patients=was.patients,
        exposed_before=exposed_before,
        exposed_after=exposed_after,
    )


def _group(size: int | None, hits: int | None, min_cell: int, level: float) -> ExposureGroup:
    if size == 0:
        return ExposureGroup(0, 0, None, Interval.none("no patient", n_patients=0, level=level))
    if size is None or hits is None:
        reason = f"not published: a count below {min_cell} would follow"
        return ExposureGroup(size, None, None, Interval.none(reason, n_patients=size or 0, level=level))
    return ExposureGroup(size, hits, hits / size, clopper_pearson(hits, size, level))
