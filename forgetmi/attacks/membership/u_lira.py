"""U-LiRA: LiRA against unlearning (Hayes et al. 2024, "Inexact unlearning needs more careful evaluations").

Was this record trained on and then unlearned, or never seen? Its scaled logit has one law under models that trained on
it and unlearned it (U), another under models that never saw it (H); which does the attacked model's value come from?
It is online LiRA with other references. After exact unlearning the two laws are one and the attack guesses; without any
unlearning it is online LiRA itself; a method that forgets *too hard* is found out as well, since no model that never
saw the record looks like that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.attacks.membership.lira import CENTRES, QUERIES, VARIANCES, lira_scores
from forgetmi.attacks.membership.moments import counts
from forgetmi.attacks.membership.references import Compared, ComparingAttack, Scored, check_enough, unknown
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Floats

HELD_OUT = ("unlearned_shadows", "retrained")
_FIX = "train more shadow models; with one variance for all records, one a record is enough"
_H = {
    "unlearned_shadows": "held it out while the same method unlearned other patients",
    "retrained": "are retrained models, which never saw it",
}


def u_lira_scores(
    target: ArrayLike,
    unlearned: ArrayLike,
    seen: ArrayLike,
    *,
    retrained: ArrayLike | None = None,
    centre: str = "mean",
    variance: str = "per_record",
    queries: str = "mean",
) -> Floats:
    """Score ln N(phi; mu_u, s_u^2) - ln N(phi; mu_h, s_h^2) of each record [n]; from 0 on it is called unlearned.

    Args:
        target: phi under the attacked model [n], or [n, q] of q queries a record.
        unlearned: phi under K models that unlearned some records [K, n] or [K, n, q].
        seen: [K, n]: model k trained on the record and then unlearned it; else it never saw the record.
        retrained: phi under models that never saw the record and unlearned nothing [R, n] or [R, n, q]. They give
            (mu_h, s_h) if they are given; else those models of ``unlearned`` do that did not see the record.
        centre, variance, queries: as in :func:`~forgetmi.attacks.membership.lira.lira_scores`.

    Raises:
        ConfigError, AuditError: as ``lira_scores``.
    """
    if retrained is None:
        return lira_scores(target, unlearned, seen, mode="online", centre=centre, variance=variance, queries=queries)
    # of either law alone, "offline, two-sided" is -ln N(phi; OUT): OUT are those that saw it, then the retrained ones
    minus_logs = [
        lira_scores(
            target, values, outside, mode="offline_two_sided", centre=centre, variance=variance, queries=queries
        )
        for values, outside in (
            (unlearned, ~np.asarray(seen, dtype=np.bool_)),
            (retrained, np.zeros(np.shape(retrained)[:2], dtype=np.bool_)),
        )
    ]
    return minus_logs[1] - minus_logs[0]


def held_out_by_retraining(forget: PartSignals, test: PartSignals, signal: str, data: Compared) -> Floats:
    """The signal of both parts under retrained models [R, n, q], to be set against ``data``.

    Raises:
        AuditError: there are none, they do not fit, or one of them saw a record.
    """
    sides = [part.under_references("retrained", signal) for part in (forget, test)]
    if sides[0][0].shape[::2] != sides[1][0].shape[::2] or sides[0][0].shape[2] != data.target.shape[1]:
        raise AuditError(
            f"signal {signal!r} under retrained models: forget {sides[0][0].shape}, test {sides[1][0].shape}",
            expected=f"the same models for both parts, {data.target.shape[1]} queries a record",
        )
    wrong = sum(int(seen.any(axis=0).sum()) for _, seen in sides)
    if wrong:
        raise AuditError(f"{wrong} records were seen by a model that is called retrained")
    return np.concatenate([values for values, _ in sides], axis=1)


def check_laws(data: Compared, retrained: Floats | None, needed: int) -> str:
    """Check that every record has ``needed`` references on either side; how many there are, in words."""
    n_u = counts(data.seen, True)
    n_h = counts(data.seen, False) if retrained is None else np.full(n_u.size, len(retrained))
    check_enough(n_u, needed, "that trained on them and unlearned them", _FIX)
    check_enough(n_h, needed, "that never saw them", _FIX)
    return f"{len(data.seen)} {data.kind}, a record in U of {n_u.min()} to {n_u.max()} and in H of {n_h.min()} to " + (
        str(n_h.max()) if retrained is None else f"{n_h.max()} (retrained)"
    )


def laws_in_words(held_out: str) -> str:
    """What U and H are."""
    return f"U: references that trained on the record and unlearned it; H: references that {_H[held_out]}"


@dataclass(frozen=True)
class ULiraAttack(ComparingAttack):
    """U-LiRA on the scaled logit; a record is called a member (it was unlearned) from score 0 on.

    Attributes:
        held_out: what the law H comes from: ``unlearned_shadows`` that never saw the record and unlearned others, as
            the attacked model's method treats test patients; or ``retrained`` models, the exact answer to the request.
        centre, variance, queries: as in :func:`u_lira_scores`.
    """

    name: ClassVar[str] = "u_lira"
    references: ClassVar[tuple[str, ...]] = ("unlearned_shadows",)
    signals: ClassVar[tuple[str, ...]] = ("scaled_logit",)

    held_out: str = "unlearned_shadows"
    centre: str = "mean"
    variance: str = "per_record"
    queries: str = "mean"

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        given = (
            ("held_out", self.held_out, HELD_OUT),
            ("centre", self.centre, CENTRES),
            ("variance", self.variance, VARIANCES),
            ("queries", self.queries, QUERIES),
        )
        return [unknown(option, value, choices) for option, value, choices in given if value not in choices]

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores by :func:`u_lira_scores`."""
        data = self.compared(forget, test, "scaled_logit")
        retrained = held_out_by_retraining(forget, test, "scaled_logit", data) if self.held_out == "retrained" else None
        q = data.target.shape[1]
        joint = self.queries == "multivariate" and q > 1
        there = check_laws(data, retrained, 1 if self.variance != "per_record" else q + 1 if joint else 2)
        scores = u_lira_scores(
            data.target,
            data.references,
            data.seen,
            retrained=retrained,
            centre=self.centre,
            variance=self.variance,
            queries=self.queries,
        )
        definition = (
            f"U-LiRA: score = ln N(phi; U) - ln N(phi; H), phi = scaled logit; {laws_in_words(self.held_out)}; centre: "
            f"{self.centre}; variance: {self.variance} (ddof 0); {q} quer{'y' if q == 1 else 'ies'} a record, "
            f"{self.queries}; reference models: {there}; called a member from a score of 0 on"
        )
        return Scored(scores, definition, {"reference_models": data.kind}, called=scores >= 0.0)
