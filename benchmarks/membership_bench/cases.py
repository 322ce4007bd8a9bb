"""What is measured: made-up arrays, and our functions on them.

Scaled logits are normal about a difficulty of the record, and higher by .8 in models that saw it: exactly half of the
reference models did. Arrays follow from the case's name, so that every process makes the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Call = Callable[[], Any]
FPRS = (0.01, 0.001)
DELTA = 1e-5


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes:
        title: for the page.
        make: (generator, divisor of the sizes) to arrays.
        ours: arrays to a call without arguments, and everything that is not measured done before.
        outcome: what the call gives, as one number: it shows that both sides did the same.
        outcome_name: what that number is.
        times: a target: at least this many times as fast as the fastest peer.
        mib: a target: at most this much extra memory.
    """

    title: str
    make: Callable[[np.random.Generator, int], Arrays]
    ours: Callable[[Arrays], Call]
    outcome: Callable[[Any, Arrays], float]
    outcome_name: str
    times: float = 1.0
    mib: float | None = None

    def arrays(self, name: str, divisor: int) -> Arrays:
        """The arrays of this case, the same in every process."""
        return self.make(np.random.default_rng(zlib.crc32(name.encode())), divisor)


def with_references(n: int, population: int = 0, models: int = 64) -> Callable[[np.random.Generator, int], Arrays]:
    """Scaled logits of the attacked model [n] and of references [K, n], of which half saw each record; a population."""

    def make(rng: np.random.Generator, divisor: int) -> Arrays:
        size = n // divisor
        seen = rng.permuted(np.tile(np.arange(models) < models // 2, (size, 1)), axis=1).T.copy()
        member, hard = rng.random(size) < 0.5, rng.normal(1.0, 2.0, size)
        arrays: Arrays = {
            "member": member,
            "seen": seen,
            "phi": hard + 0.8 * member + rng.normal(0.0, 0.7, size),
            "references": hard + 0.8 * seen + rng.normal(0.0, 0.7, (models, size)),
        }
        if population:
            z = rng.normal(1.0, 2.0, population // divisor)
            arrays["z_phi"] = z + rng.normal(0.0, 0.7, z.size)
            arrays["z_references"] = z + rng.normal(0.0, 0.7, (models, z.size))
        return arrays

    return make


def with_scores(n: int) -> Callable[[np.random.Generator, int], Arrays]:
    """One score a record, or patient, and whether it is a member: half are."""

    def make(rng: np.random.Generator, divisor: int) -> Arrays:
        member = rng.permutation(np.arange(n // divisor) < n // divisor // 2)
        return {"scores": rng.normal(size=member.size) + 0.6 * member, "member": member}

    return make


def losses(arrays: Arrays) -> tuple[Any, ...]:
    """-ln p of two classes: target, references, population, population under the references."""
    return tuple(np.logaddexp(0.0, -arrays[name]) for name in ("phi", "references", "z_phi", "z_references"))


def _rmia(arrays: Arrays) -> Call:
    from forgetmi.attacks.membership.rmia import rmia_scores

    loss, references, z_loss, z_references = losses(arrays)
    return lambda: rmia_scores(
        loss, references, arrays["seen"], z_loss, z_references, mode="offline", a=0.3, ties="strict"
    )


def _lira(mode: str, centre: str = "mean") -> Callable[[Arrays], Call]:
    def ours(arrays: Arrays) -> Call:
        from forgetmi.attacks.membership.lira import lira_scores

        return lambda: lira_scores(arrays["phi"], arrays["references"], arrays["seen"], mode=mode, centre=centre)

    return ours


def _roc(arrays: Arrays) -> Call:
    from forgetmi.metrics.roc import roc_curve

    def call() -> tuple[float, list[float | None]]:
        curve = roc_curve(arrays["scores"], arrays["member"])
        return curve.auc, [curve.tpr_at_fpr(fpr).value for fpr in FPRS]

    return call


def _bootstrap(arrays: Arrays) -> Call:
    from forgetmi.metrics.intervals import auc_interval

    patients = np.arange(arrays["scores"].size)

    def call() -> tuple[float, float | None]:
        rng = np.random.default_rng(0)
        interval = auc_interval(arrays["scores"], arrays["member"], patients, rng, n_resamples=1000)
        assert interval.low is not None
        return interval.low, interval.high

    return call


def _one_run(arrays: Arrays) -> Call:
    from forgetmi.attacks.membership.one_run import one_run_audit

    patients = np.arange(arrays["scores"].size)

    def call() -> float:
        rng = np.random.default_rng(0)
        found = one_run_audit(
            arrays["scores"], arrays["member"], rng, patients=patients, guesses="split", delta=DELTA, alpha=0.05
        )
        return found.bound.value

    return call


def _clopper_pearson(arrays: Arrays) -> Call:
    from forgetmi.metrics.epsilon import epsilon_over_thresholds

    patients = np.arange(arrays["scores"].size)
    return lambda: (
        epsilon_over_thresholds(arrays["scores"], arrays["member"], patients=patients, delta=0.0, alpha=0.05).value
    )


def auc_of_scores(scores: Any, arrays: Arrays) -> float:
    """AUC of one score a record."""
    from forgetmi.metrics.roc import auc

    return auc(np.asarray(scores, dtype=np.float64), arrays["member"])


def _first(result: Any, arrays: Arrays) -> float:
    return float(result[0])


def _number(result: Any, arrays: Arrays) -> float:
    return float(result)


CASES = {
    "rmia": Case(
        "RMIA offline, 64 references x 10,000 records x 2,500 of the population",
        with_references(10_000, 2_500),
        _rmia,
        auc_of_scores,
        "AUC",
        times=20.0,
        mib=2.0,
    ),
    "rmia_large": Case(
        "RMIA offline, 64 x 50,000 x 10,000", with_references(50_000, 10_000), _rmia, auc_of_scores, "AUC", times=20.0
    ),
    "lira_online": Case(
        "LiRA online, 64 x 50,000", with_references(50_000), _lira("online"), auc_of_scores, "AUC", times=4.0
    ),
    "lira_online_median": Case(
        "LiRA online about the median, 64 x 50,000",
        with_references(50_000),
        _lira("online", "median"),
        auc_of_scores,
        "AUC",
    ),
    "lira_offline": Case(
        "LiRA offline, two-sided, 64 x 50,000",
        with_references(50_000),
        _lira("offline_two_sided"),
        auc_of_scores,
        "AUC",
    ),
    "lira_one_sided": Case(
        "LiRA offline, one-sided, 64 x 50,000",
        with_references(50_000),
        _lira("offline_one_sided"),
        auc_of_scores,
        "AUC",
    ),
    "roc": Case("ROC of 100,000 scores: AUC, TPR at 1 % and 0.1 %", with_scores(100_000), _roc, _first, "AUC"),
    "bootstrap": Case(
        "1,000 bootstraps of the AUC of 10,000 scores", with_scores(10_000), _bootstrap, _first, "lower end"
    ),
    "one_run": Case("one-run audit, 5,000 canaries", with_scores(5_000), _one_run, _number, "epsilon"),
    "clopper_pearson": Case(
        "Clopper-Pearson epsilon over thresholds, 10,000 scores",
        with_scores(10_000),
        _clopper_pearson,
        _number,
        "epsilon",
    ),
}
