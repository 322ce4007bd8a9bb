"""LiRA, the likelihood ratio attack (Carlini et al. 2022, "Membership inference attacks from first principles").

A record's scaled logit under models that trained on it is normal, and so it is, elsewhere, under models that did not:
which law does the attacked model's value come from? Sources differ in what they call by the same name, so each choice
is an option here, and the definition of a result names them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from forgetmi.attacks.membership.moments import Moments, as_queries, blocks, counts, medians, moments
from forgetmi.attacks.membership.references import ComparingAttack, Scored, check_enough, unknown
from forgetmi.attacks.membership.result import PartSignals
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.roc import Bools, Floats

MODES = ("online", "offline_one_sided", "offline_two_sided")
CENTRES = ("mean", "median")
VARIANCES = ("per_record", "pooled", "total")
QUERIES = ("mean", "multivariate")

_FIX = "train more shadow models; variance='pooled' needs one a record only"
_SAID = {
    "online": "online LiRA: score = ln N(phi; IN) - ln N(phi; OUT)",
    "offline_one_sided": "offline LiRA, one-sided: score = Phi((phi - centre of OUT) / sd of OUT)",
    "offline_two_sided": "offline LiRA, two-sided: score = -ln N(phi; OUT)",
    "per_record": "variance of each record over its references",
    "pooled": "one variance for all records: of the differences from each record's centre",
    "total": "one variance for all records: of all values of all records together",
}


def lira_scores(
    target: ArrayLike,
    references: ArrayLike,
    seen: ArrayLike,
    *,
    mode: str,
    centre: str = "mean",
    variance: str = "per_record",
    queries: str = "mean",
) -> Floats:
    """Score of each record [n], higher = member.

    With phi the record's scaled logit under the attacked model, and (mu_in, s_in), (mu_out, s_out) centre and standard
    deviation of its scaled logits under the references that saw it (IN) and that did not (OUT):

    - ``online`` (algorithm 1): ln N(phi; mu_in, s_in^2) - ln N(phi; mu_out, s_out^2);
    - ``offline_one_sided`` (equation 4): Phi((phi - mu_out) / s_out), the probability that a model that did not see the
      record has a lower value. It rounds to 1 from about 8.3 standard deviations on, where records tie;
    - ``offline_two_sided`` (the paper's code): -ln N(phi; mu_out, s_out^2): values that are too *low* count as well.

    Args:
        target: phi [n] or [n, q] of q queries (augmented views).
        references: phi under K reference models [K, n] or [K, n, q].
        seen: [K, n]: reference k trained on the record.
        mode: as above.
        centre: mu, the ``mean`` (the paper) or the ``median`` (its code). Standard deviations divide by the count
            (ddof = 0) and are about the mean whatever the centre.
        variance: ``per_record``; or one for all records, which has two meanings in use: ``pooled``, the variance of the
            differences from each record's centre (the noise within a record, which the paper describes), or ``total``,
            that of all values of all records, hard and easy ones together. IN and OUT have their own each.
        queries: ``mean`` over queries of the score of each query (the code), or ``multivariate``: one normal law over
            the q values of a record (the paper). With ``mean``, a variance for all records is one for all queries too.
            The multivariate one-sided form is not defined.

    Raises:
        ConfigError: an option is none of its choices.
        AuditError: shapes do not fit; a record has fewer references than its variance needs (two; q + 1 if
            multivariate; one where the variance is for all records); a variance is zero, or a covariance singular.
    """
    if problems := _problems(mode, centre, variance, queries):
        raise ConfigError(problems)
    phi, values, mask = as_queries(target, references, seen)
    multivariate = queries == "multivariate" and phi.shape[1] > 1
    needed = 1 if variance != "per_record" else phi.shape[1] + 1 if multivariate else 2
    logs = {}
    for group in (True, False) if mode == "online" else (False,):
        check_enough(counts(mask, group), needed, "that saw them" if group else "that did not see them", _FIX)
        found = moments(values, mask, group)
        middle = found.mean if centre == "mean" else medians(values, mask, group)
        if multivariate:
            covariance = _covariance(values, mask, group, found, middle, variance)
            logs[group] = _log_normal_joint(phi - middle, covariance)
            continue
        spread = _variance(found, middle, variance, len(values))
        if mode == "offline_one_sided":
            return _finite(ndtr((phi - middle) / np.sqrt(spread)).mean(axis=1))
        logs[group] = _log_normal(phi - middle, spread).mean(axis=1)
    return _finite(logs[True] - logs[False] if mode == "online" else -logs[False])


def _problems(mode: str, centre: str, variance: str, queries: str) -> list[str]:
    given = (
        ("mode", mode, MODES),
        ("centre", centre, CENTRES),
        ("variance", variance, VARIANCES),
        ("queries", queries, QUERIES),
    )
    found = [unknown(option, value, choices) for option, value, choices in given if value not in choices]
    if mode == "offline_one_sided" and queries == "multivariate":
        found.append("queries='multivariate' has no one-sided form: take queries='mean' or mode='offline_two_sided'")
    return found


def _log_normal(apart: Floats, variance: Floats) -> Floats:
    result: Floats = -0.5 * (np.square(apart) / variance + np.log(variance) + np.log(2.0 * np.pi))
    return result


def _log_normal_joint(apart: Floats, covariance: Floats) -> Floats:
    """Log density of q values a record [n, q] under covariances [n or 1, q, q]."""
    lower = np.linalg.cholesky(covariance)
    standard = np.linalg.solve(np.broadcast_to(lower, (len(apart), *lower.shape[1:])), apart[:, :, None])[:, :, 0]
    log_det = 2.0 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    result: Floats = -0.5 * (np.square(standard).sum(axis=1) + log_det + apart.shape[1] * np.log(2.0 * np.pi))
    return result


def _variance(found: Moments, middle: Floats, variance: str, n_references: int) -> Floats:
    """[n, q], or [1, 1] for all records."""
    if variance == "per_record":
        spread = found.squares / found.count[:, None]
    else:
        weight = np.broadcast_to(found.count[:, None], middle.shape)
        # sums over a record's references, about its mean, plus what the mean itself is off by
        off = found.mean - middle if variance == "pooled" else found.mean
        level = (weight * off).sum() / weight.sum()
        spread = np.reshape((found.squares + weight * np.square(off - level)).sum() / weight.sum(), (1, 1))
    # equal values leave a rounding error of their mean behind: that is no spread
    size = np.abs(found.mean) if variance == "per_record" else np.abs(found.mean).max()
    flat: Bools = np.any(spread <= np.square(n_references * np.finfo(np.float64).eps * size), axis=1)
    _check_spread(int(flat.sum()), len(flat), "the same value under all reference models")
    return spread


def _covariance(values: Floats, seen: Bools, group: bool, found: Moments, middle: Floats, variance: str) -> Floats:
    """[n, q, q], or [1, q, q] for all records."""
    n_references, n, q = values.shape
    scatter = np.empty((n, q, q))
    for block in blocks(n_references, n):
        apart = (values[:, block] - found.mean[block]) * (seen[:, block] == group)[:, :, None]
        scatter[block] = np.einsum("kni,knj->nij", apart, apart)
    if variance == "per_record":
        covariance = scatter / found.count[:, None, None]
    else:
        off = found.mean - middle if variance == "pooled" else found.mean
        off = off - np.average(off, axis=0, weights=found.count)
        of_means = np.einsum("n,ni,nj->ij", found.count, off, off)
        covariance = (scatter.sum(axis=0) + of_means)[None] / found.count.sum()
    sizes = np.linalg.eigvalsh(covariance)
    floor = n_references * np.finfo(np.float64).eps * np.maximum(sizes[:, -1], 0.0)
    singular = sizes[:, 0] <= floor
    _check_spread(int(singular.sum()), len(singular), "queries that follow from each other (a singular covariance)")
    return covariance


def _check_spread(wrong: int, n: int, what: str) -> None:
    if wrong:
        raise AuditError(
            f"{wrong} of {n} {'variances are' if n > 1 else 'variance is'} zero: {what}",
            fix="one variance for all records (variance='pooled'), queries='mean', or references of different seeds",
        )


def _finite(scores: Floats) -> Floats:
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise AuditError(f"{wrong} of {scores.size} LiRA scores are not finite", fix="pass finite signals")
    return scores


@dataclass(frozen=True)
class LiraAttack(ComparingAttack):
    """LiRA on the scaled logit.

    Attributes:
        mode: ``online``, ``offline_one_sided``, ``offline_two_sided``; empty: online where every record has as many
            references as it needs on both sides, else offline one-sided. The definition of the result says which.
        centre, variance, queries: as in :func:`lira_scores`.
    """

    name: ClassVar[str] = "lira"
    signals: ClassVar[tuple[str, ...]] = ("scaled_logit",)

    mode: str = ""
    centre: str = "mean"
    variance: str = "per_record"
    queries: str = "mean"

    def problems(self) -> list[str]:
        """What is wrong with the attack's own options."""
        return _problems(self.mode or MODES[0], self.centre, self.variance, self.queries)

    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores by :func:`lira_scores`."""
        data = self.compared(forget, test, "scaled_logit")
        q = data.target.shape[1]
        n_in, n_out = (counts(data.seen, group) for group in (True, False))
        needed = 1 if self.variance != "per_record" else q + 1 if self.queries == "multivariate" else 2
        notes = []
        mode = self.mode or "online"
        if not self.mode and n_in.min() < needed:
            mode = "offline_two_sided" if self.queries == "multivariate" else "offline_one_sided"
            lacking = int((n_in < needed).sum())
            notes.append(f"offline: {lacking} of {n_in.size} records have fewer than {needed} references that saw them")
        scores = lira_scores(
            data.target,
            data.references,
            data.seen,
            mode=mode,
            centre=self.centre,
            variance=self.variance,
            queries=self.queries,
        )
        tied = int((scores == 1.0).sum()) if mode == "offline_one_sided" else 0
        if tied > 1:
            notes.append(f"{tied} records are more than 8 standard deviations above OUT: Phi rounds to 1, and they tie")
        of_queries = (
            ""
            if q == 1
            else f"; {q} queries a record, "
            + ("mean of their scores" if self.queries == "mean" else "one multivariate normal law")
        )
        references = f"{len(data.seen)} {data.kind}, a record OUT of {n_out.min()} to {n_out.max()}"
        references += f" and IN {n_in.min()} to {n_in.max()}" if mode == "online" else ""
        definition = (
            f"{_SAID[mode]}, phi = scaled logit; centre: {self.centre}; {_SAID[self.variance]} (ddof 0){of_queries}; "
            f"reference models: {references}"
        )
        return Scored(scores, definition, {"mode": mode, "reference_models": data.kind}, notes=notes)
