"""RMIA, the robust membership inference attack (Zarifzadeh et al. 2024, "Low-cost high-power membership inference").

Is the record's likelihood under the attacked model, against what it is elsewhere, larger than that of records that
nobody trained on? One reference model is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.attacks.membership.moments import as_queries, blocks, counts
from forgetmi.attacks.membership.references import ComparingAttack, Scored, check_enough, one_query, unknown
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import Bools, Floats, Ints

MODES = ("offline", "online")
TIES = ("count", "strict")

# Two likelihood ratios that differ by less than this in logarithm are one value that was rounded twice.
_ROUNDING = 1e-12
_BLOCK = 131_072  # values at a time: 1 MiB; a few large blocks take less time than many small ones


def rmia_scores(
    target_loss: ArrayLike,
    reference_loss: ArrayLike,
    seen: ArrayLike,
    population_loss: ArrayLike,
    population_reference_loss: ArrayLike,
    *,
    mode: str,
    a: float = 0.3,
    gamma: float = 1.0,
    ties: str = "count",
) -> Floats:
    """Score of each record [n]: the share of population records z that the record x dominates (equations 2 to 4).

    LR(x, z) = [p_theta(x) / p(x)] / [p_theta(z) / p(z)], score = share of z with LR >= gamma, where p_theta is the
    probability under the attacked model and p(x) an estimate of the probability under all models:

    - ``offline``: p(x) = ((1 + a) * mean over OUT + (1 - a)) / 2, of *all* references that did not see x;
    - ``online``: p(x) = mean over all references, some of which saw x.

    No reference saw a population record: its p(z) is made of all of them, by the same formula.

    Ratios are compared as logarithms, so that long texts, whose probabilities round to 0, keep theirs. Two that are
    within a relative 1e-12 of each other tie: neither what a mean rounds to nor the order of the references breaks a
    tie (with every reference equal to the attacked model and a = 1, all ratios are 1). Population ratios are sorted
    once: O(K n + (n + Z) log Z) time, and memory for a few values a record.

    Args:
        target_loss: -ln p_theta of the records [n], in nats.
        reference_loss: under K references [K, n].
        seen: reference k trained on the record [K, n].
        population_loss: of Z records that nobody trained on [Z].
        population_reference_loss: [K, Z].
        mode: as above.
        a: how well offline references stand for all models: 1, as they are; 0, halfway to certainty. Not used online.
        gamma: the ratio that dominates.
        ties: ``count`` ratios equal to gamma (the paper), or ``strict``: they do not count.

    Raises:
        ConfigError: an option is none of its choices, or out of range.
        AuditError: shapes do not fit, a value is not finite, or a record lacks a reference that did not see it (online:
            also one that did).
    """
    if problems := _problems(mode, a, gamma, ties):
        raise ConfigError(problems)
    loss, references, mask = as_queries(target_loss, reference_loss, seen)
    z_loss, z_references, _ = as_queries(
        population_loss, population_reference_loss, np.broadcast_to(np.False_, np.shape(population_reference_loss)[:2])
    )
    if len(references) != len(z_references):
        raise AuditError(
            f"{len(references)} reference models scored the records and {len(z_references)} the population"
        )
    fix = "train more shadow models" + ("" if mode == "offline" else ", or mode='offline'")
    n_out = counts(mask, False)
    check_enough(n_out, 1, "that did not see them", fix)
    if mode == "online":
        check_enough(len(mask) - n_out, 1, "that saw them", fix)
        a = 1.0  # leaves the mean as it is
    out = (mask, n_out) if mode == "offline" else None
    x = _log_ratio(one_query(loss, "rmia"), one_query(references, "rmia"), out, a)
    z = np.sort(_log_ratio(one_query(z_loss, "rmia"), one_query(z_references, "rmia"), None, a))
    x -= math.log(gamma)
    x += _ROUNDING if ties == "count" else -_ROUNDING
    order = np.argsort(x)  # in order, each look-up begins where the last one ended
    below = np.empty(x.size)
    below[order] = np.searchsorted(z, x[order], side="right" if ties == "count" else "left")
    return below / z.size


def _log_ratio(loss: Floats, references: Floats, out: tuple[Bools, Ints] | None, a: float) -> Floats:
    """ln(p_theta / p) [n], p of all references, or ``out``: but those that saw the record [K, n]; and how many not."""
    n_references, n = references.shape
    log_p = np.empty(n)
    for block in blocks(n_references, n, _BLOCK):
        among = None if out is None else (~out[0][:, block], out[1][block])
        log_p[block] = _log_mean(references[:, block], among, a)
    ratio: Floats = -loss - log_p
    if not np.isfinite(ratio).all():
        raise AuditError("RMIA: losses must be finite")
    return ratio


def _log_mean(losses: Floats, among: tuple[Bools, Ints] | None, a: float) -> Floats:
    """ln(((1 + a) * mean + 1 - a) / 2) [n], mean: of exp(-loss) over all references or ``among`` so many that are used.

    Three passes, for this is where the time goes; only long texts with a = 1, whose mean would round to 0, take more.
    """
    shares = np.negative(losses)
    np.exp(shares, out=shares)
    mean = shares.sum(axis=0) / len(losses) if among is None else np.einsum("kn,kn->n", shares, among[0]) / among[1]
    if a < 1.0:
        mixed: Floats = np.log((1.0 + a) / 2.0 * mean + (1.0 - a) / 2.0)
        return mixed
    faint = mean < 1e-200
    with np.errstate(divide="ignore"):
        result: Floats = np.log(mean)
    if faint.any():  # the largest probability is taken out
        few = losses[:, faint] if among is None else np.where(among[0][:, faint], losses[:, faint], np.inf)
        lowest = few.min(axis=0)
        count = len(losses) if among is None else among[1][faint]
        result[faint] = np.log(np.exp(lowest - few).sum(axis=0) / count) - lowest
    return result


def _problems(mode: str, a: float, gamma: float, ties: str) -> list[str]:
    found = [unknown("mode", mode, MODES)] if mode not in MODES else []
    found += [unknown("ties", ties, TIES)] if ties not in TIES else []
    found += [f"a must lie in [0, 1], not {a}"] if not 0.0 <= a <= 1.0 else []
    return found + ([f"gamma must be positive, not {gamma}"] if not 0.0 < gamma < math.inf else [])


@dataclass(frozen=True)
class RmiaAttack(ComparingAttack):
    """RMIA on the loss; the population are records that nobody trained on.

    Attributes:
        mode: ``offline`` or ``online``; empty: online where every record has references that saw it and others that did
            not, else offline. The definition of the result says which.
        a, gamma, ties: as in :func:`rmia_scores`. The paper tunes ``a`` on reference models; 0.3 is its choice for
            natural images, taken over here untuned.
    """

    name: ClassVar[str] = "rmia"
    needs_population: ClassVar[bool] = True

    mode: str = ""
    a: float = 0.3
    gamma: float = 1.0
    ties: str = "count"

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return _problems(self.mode or MODES[0], self.a, self.gamma, self.ties)

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores by :func:`rmia_scores`."""
        assert population is not None
        data = self.compared(forget, test, "loss")
        z_references, z_seen = population.under_references(data.kind, "loss")
        if z_seen.any():
            raise AuditError(
                f"{int(z_seen.any(axis=0).sum())} of {z_seen.shape[1]} population records were seen by {data.kind}",
                expected="a population that no model trained on",
                fix="draw shadow training sets from other patients than the population's",
            )
        n_in, n_out = (counts(data.seen, group) for group in (True, False))
        mode, notes = self.mode or "online", []
        if not self.mode and n_in.min() < 1:
            mode = "offline"
            notes.append(f"offline: no reference model saw {int((n_in < 1).sum())} of {n_in.size} records")
        scores = rmia_scores(
            one_query(data.target, self.name),
            one_query(data.references, self.name),
            data.seen,
            population.get("loss"),
            one_query(z_references, self.name),
            mode=mode,
            a=self.a,
            gamma=self.gamma,
            ties=self.ties,
        )
        estimate = (
            f"((1 + a) * mean of p over OUT references + 1 - a) / 2, a = {self.a:g}"
            if mode == "offline"
            else "mean of p over all references, IN and OUT"
        )
        sign = ">=" if self.ties == "count" else ">"
        definition = (
            f"{mode} RMIA: score = share of population records z with LR(x, z) {sign} {self.gamma:g}, LR = "
            f"[p_theta(x)/p(x)] / [p_theta(z)/p(z)], p = exp(-loss), p(x) = {estimate}; population: {z_seen.shape[1]} "
            f"records that nobody trained on; reference models: {len(data.seen)} {data.kind}, a record OUT of "
            f"{n_out.min()} to {n_out.max()} and IN {n_in.min()} to {n_in.max()}"
        )
        return Scored(scores, definition, {"mode": mode, "reference_models": data.kind}, notes=notes)
