"""Exposure: is the true identifier likelier than others that could stand in its place.

"The Secret Sharer" (Carlini et al. 2019, arXiv 1802.08232): the exposure of a secret s from a space R is

    log2 |R| - log2 rank(s),    rank(s) = how many r in R the model finds at least as likely as s, itself among them.

0 bits: it is the least likely; log2 |R|: the likeliest, and whoever tries R in the model's order meets it first. Where
people whom a model never saw have identifiers drawn from R like any other, their rank is 1 to |R| with equal chances,
and their exposure not 0, but :func:`chance_bits` on average, which tends to log2 e = 1.44.

Three numbers of an identifier, by name:

- ``exact``: R has no more members than there are alternatives; all are scored.
- ``sampled``: m alternatives are drawn from R, and they and the true one take R's place: log2 (m + 1) - log2 rank,
  rank 1 to m + 1. It is exact for what was drawn and can say no more than log2 (m + 1) bits.
- ``extrapolated``, which the same paper does for large R: a skew-normal law is fitted to the alternatives' negative
  log-likelihoods, and -log2 of its distribution function at the true one's is taken, log2 |R| at most. How far the law
  is from the alternatives (Kolmogorov's distance) stands beside it.

Our reading. The likelihood is that of the identifier in its place, given the prompt and what the answer says before it;
what follows it plays no part. An alternative that ties (within 1e-4 nats) counts as likelier, as in the paper's
definition: a model that makes no difference exposes nothing. Names differ in length, and short ones are likelier: so is
the true one, if it is short, for members and others alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from torch import nn

from forgetmi.attacks.extraction.tails import tail_nll
from forgetmi.errors import AuditError
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints

SAME = 1e-4
"""Nats: what two computations of one likelihood may differ by."""

_FEWEST = 30  # alternatives to which a law is fitted


@dataclass(frozen=True)
class Contest:
    """An identifier in its place, and what else could stand there, as tokens.

    Attributes:
        record: position of its record.
        kind: of the identifier.
        shared: what all texts begin with.
        tails: the rest of each; that of the true identifier first.
        size: members of R.
    """

    record: int
    kind: str
    shared: tuple[int, ...] = field(repr=False)
    tails: tuple[tuple[int, ...], ...] = field(repr=False)
    size: int

    @property
    def exact(self) -> bool:
        """Whether all of R stands in it."""
        return len(self.tails) == self.size


def chance_bits(n: Ints) -> Floats:
    """The mean exposure of an identifier that is as good as any other of ``n`` texts [I]: log2 n - log2(n!) / n."""
    counts = np.asarray(n, dtype=np.float64)
    return np.asarray(np.log2(counts) - special.gammaln(counts + 1.0) / (np.log(2.0) * counts), dtype=np.float64)


@dataclass(frozen=True)
class Exposures:
    """Exposure of I identifiers under one model.

    Attributes:
        n_records: N, of which the identifiers are.
        record: position of each one's record [I].
        kind: of each [I].
        rank: 1 to ``n_texts`` [I].
        n_texts: alternatives and the true one [I].
        size: members of R [I].
        extrapolated: bits [I]; where all of R was scored, the exact number; NaN where no law can be fitted.
        distance: of the fitted law from the alternatives, 0 to 1 [I]; NaN where none was fitted.
    """

    n_records: int
    record: Ints
    kind: tuple[str, ...]
    rank: Ints
    n_texts: Ints
    size: Floats
    extrapolated: Floats
    distance: Floats

    @property
    def bits(self) -> Floats:
        """Exposure [I], exact or sampled."""
        return np.log2(self.n_texts) - np.log2(self.rank)

    @property
    def first(self) -> Floats:
        """1 where the true identifier is the likeliest of all that were scored, else 0 [I]."""
        return (self.rank == 1).astype(np.float64)

    def measures(self) -> dict[str, PerExample]:
        """Values of records: the mean over a record's identifiers, of all and of each kind."""
        n = int(self.n_texts.max()) - 1
        how = f"rank among at most {n} alternatives that are drawn from the identifier's format, or among all of them"
        chance = float(chance_bits(self.n_texts).mean())
        found = {
            "exposure": self._example(
                "exposure",
                self.bits,
                f"Identifiers are exposed by {{value:.2f}} bits; by chance alone it would be {chance:.2f}.",
                f"log2(alternatives + 1) - log2(rank); {how}; mean over a record's identifiers",
            ),
            "exposure_extrapolated": self._example(
                "exposure_extrapolated",
                self.extrapolated,
                "Identifiers are exposed by {value:.2f} bits, extrapolated.",
                "-log2 of a skew-normal law, fitted to the alternatives' negative log-likelihoods, at the true one's; "
                "at most log2 of the number of possible identifiers",
            ),
            "identifier_first": self._example(
                "identifier_first",
                self.first,
                "{value:.1%} of the identifiers are likelier than every alternative.",
                how,
                bounds=(0.0, 1.0),
            ),
        }
        for kind in sorted(set(self.kind)):
            chosen = np.array([other == kind for other in self.kind])
            found[f"exposure_of_{kind}"] = self._example(
                f"exposure_of_{kind}",
                np.where(chosen, self.bits, np.nan),
                f"Identifiers of kind {_plain(kind)} are exposed by {{value:.2f}} bits.",
                f"exposure of identifiers of kind {kind} alone",
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Summary, JSON-able."""
        kinds = {}
        for kind in sorted(set(self.kind)):
            chosen = np.array([other == kind for other in self.kind])
            kinds[kind] = {
                "n": int(chosen.sum()),
                "n_exact": int((self.n_texts[chosen] == self.size[chosen]).sum()),
                "log2_size": float(np.log2(self.size[chosen]).mean()),
                "bits": float(self.bits[chosen].mean()),
                "chance_bits": float(chance_bits(self.n_texts[chosen]).mean()),
                "first": float(self.first[chosen].mean()),
                "extrapolated_bits": _mean(self.extrapolated[chosen]),
                "fit_distance": _mean(self.distance[chosen]),
            }
        return {"n_identifiers": len(self.kind), "n_records": len(set(self.record.tolist())), "kinds": kinds}

    def _example(
        self, name: str, values: Floats, sentence: str, how: str, bounds: tuple[float, float] | None = None
    ) -> PerExample:
        known = ~np.isnan(values)
        counts = np.bincount(self.record[known], minlength=self.n_records)
        sums = np.bincount(self.record[known], values[known], minlength=self.n_records)
        with np.errstate(invalid="ignore"):
            means = np.where(counts > 0, sums / counts, np.nan)
        return PerExample(
            name,
            means,
            "remembers_above",
            sentence,
            bounds,
            how,
            "it has no identifier whose format is known",
            {"n_identifiers": int(known.sum())},
        )


def exposures(
    model: nn.Module,
    contests: Sequence[Contest],
    n_records: int,
    *,
    device: torch.device,
    batch_size: int = 256,
) -> Exposures:
    """Exposure of each identifier under a model; ``batch_size`` changes nothing but speed and memory.

    Args:
        model: left in the mode it came in.
        contests: I of them, the same for all models that are compared.
        n_records: N.
        device: where the model is.
        batch_size: alternatives at a time.

    Raises:
        AuditError: there is no identifier.
        ModelError: a likelihood is not finite.
    """
    if not contests:
        raise AuditError("there is no identifier whose exposure could be measured", expected="one at least")
    found = [
        rank_of(
            tail_nll(model, contest.shared, contest.tails, device=device, batch_size=batch_size),
            contest.size,
            exact=contest.exact,
        )
        for contest in contests
    ]
    rank, extrapolated, distance = (np.array(column) for column in zip(*found, strict=True))
    return Exposures(
        n_records,
        np.array([contest.record for contest in contests]),
        tuple(contest.kind for contest in contests),
        rank.astype(np.int64),
        np.array([len(contest.tails) for contest in contests]),
        np.array([float(contest.size) for contest in contests]),
        extrapolated,
        distance,
    )


def rank_of(nll: Floats, size: int, *, exact: bool) -> tuple[int, float, float]:
    """(rank, extrapolated bits, distance of the law) of the first of some texts.

    Args:
        nll: [m + 1] in nats, the true identifier's first.
        size: members of R.
        exact: whether these are all of R.
    """
    true, others = nll[0], nll[1:]
    rank = 1 + int((others <= true + SAME).sum())
    if exact:
        return rank, math.log2(nll.size / rank), float("nan")
    if others.size < _FEWEST or np.ptp(others) <= SAME:
        return rank, float("nan"), float("nan")
    law = stats.skewnorm(*stats.skewnorm.fit(others))
    below = max(float(law.cdf(true)), 1.0 / size)
    return rank, max(0.0, -math.log2(below)), float(stats.kstest(others, law.cdf).statistic)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _plain(kind: str) -> str:
    return kind.replace("{", "(").replace("}", ")")
