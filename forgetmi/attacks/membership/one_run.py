"""The audit from one training run, with canary patients (Steinke, Nasr and Jagielski 2023).

Before training, a coin is thrown for each of m canary patients: heads, and the patient's records are trained on. The
auditor, who does not know the coins, ranks the canaries by a score of the trained (or unlearned) model, guesses "in"
for the highest, "out" for the lowest, and abstains on the others. The count of right guesses bounds epsilon from below:
:mod:`forgetmi.metrics.one_run_epsilon`. One model suffices, where other audits train hundreds.

No member of ``ATTACKS``: it compares canaries with canaries, not a forget part with a test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.errors import AuditError
from forgetmi.metrics.epsilon import ALPHA, EpsilonBound, Law, check_delta_alpha, check_one_score_a_patient
from forgetmi.metrics.one_run_epsilon import (
    one_run_closed_form,
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_run_p_value,
)
from forgetmi.metrics.roc import Bools, Floats, Ints, check_scores

_SHARES = 2.0 ** -np.arange(7)  # of the canaries on one side, among which a split chooses; and none


@dataclass(frozen=True)
class OneRunResult:
    """What one run proves.

    Attributes:
        definition: what exactly was done.
        n_canaries: canaries whose guesses were scored (after a split: those of the second half).
        guessed_in, guessed_out: canaries guessed to be in and out; on the others the auditor abstained.
        correct: right guesses.
        p_value: the chance of so many right guesses if nothing leaked at all (fair coins).
        bound: the lower bound on epsilon, with the most that this many guesses could have certified.
    """

    definition: str
    n_canaries: int
    guessed_in: int
    guessed_out: int
    correct: int
    p_value: float
    bound: EpsilonBound

    @property
    def guesses(self) -> int:
        """Canaries on which the auditor did not abstain."""
        return self.guessed_in + self.guessed_out

    def to_dict(self) -> Mapping[str, Any]:
        """All fields, JSON-able."""
        return {**self.__dict__, "guesses": self.guesses, "bound": self.bound.to_dict()}


def one_run_audit(
    scores: ArrayLike,
    included: ArrayLike,
    rng: np.random.Generator,
    *,
    patients: ArrayLike,
    guesses: tuple[int, int] | Literal["split"],
    delta: float,
    alpha: float = ALPHA,
    law: Law = "dp",
) -> OneRunResult:
    """Guess the coins of the canaries from their scores, and bound epsilon.

    Args:
        scores: [m], one a canary patient, higher = in.
        included: [m], the coins.
        rng: breaks ties between scores by lot, and draws the halves of a split.
        patients: [m], each once.
        guesses: (k_in, k_out): the k_in highest are guessed in and the k_out lowest out, both set beforehand; or
            ``"split"``: the numbers are chosen on one half of the canaries and used on the other. The halves are drawn
            without a look at the coins, so the second half's coins are still fair.
        delta: in [0, 1); no default, it is part of the claim.
        alpha: in (0, 1).
        law: ``dp``, or ``gaussian_dp`` for the tighter bound of a mechanism that is assumed to be Gaussian.

    Raises:
        AuditError: a patient has several scores, guesses do not fit the number of canaries, a class is empty, or
            delta or alpha is out of range.
    """
    values, truth = check_scores(scores, included)
    check_one_score_a_patient(patients, values.size)
    check_delta_alpha(delta, alpha)
    if law not in ("dp", "gaussian_dp"):
        raise AuditError(f"law {law!r}", expected="'dp' or 'gaussian_dp'")
    # by patient first: what the generator does may not depend on the order of the canaries, which may betray the coins
    by_patient = np.argsort(np.asarray(patients), kind="stable")
    values, truth = values[by_patient], truth[by_patient]
    if guesses == "split":
        if values.size < 4:
            raise AuditError(f"{values.size} canaries cannot be split", expected="at least 4")
        shuffled = rng.permutation(values.size)
        first, second = shuffled[: values.size // 2], shuffled[values.size // 2 :]
        k_in, k_out = _choose(_ranked(values[first], truth[first], rng), delta, alpha)
        values, truth = values[second], truth[second]
        rule = f"numbers of guesses chosen on {first.size} other canaries"
    else:
        k_in, k_out = guesses
        rule = "numbers of guesses set beforehand"
    m = values.size
    if min(k_in, k_out) < 0 or not 1 <= k_in + k_out <= m:
        raise AuditError(f"{k_in} guesses of 'in' and {k_out} of 'out' about {m} canaries")
    ranked = _ranked(values, truth, rng)
    correct = int(ranked[:k_in].sum() + (~ranked[m - k_out :]).sum())
    rule = f"the {k_in} highest guessed in, the {k_out} lowest out, ties by lot; {rule}"
    if law == "dp":
        bound = one_run_epsilon(m, k_in + k_out, correct, delta=delta, alpha=alpha, rule=rule)
    else:
        bound = one_run_gaussian_epsilon(k_in + k_out, correct, n_canaries=m, delta=delta, alpha=alpha, rule=rule)
    return OneRunResult(
        definition=f"one-run audit, {m} canary patients, each in with probability 1/2; {rule}; {bound.method}",
        n_canaries=m,
        guessed_in=k_in,
        guessed_out=k_out,
        correct=correct,
        p_value=one_run_p_value(m, k_in + k_out, correct, 0.0, 0.0),
        bound=bound,
    )


def _ranked(scores: Floats, included: Bools, rng: np.random.Generator) -> Bools:
    """The coins [m] from the highest score to the lowest, ties by lot."""
    return included[np.lexsort((rng.random(scores.size), -scores))]


def _choose(ranked: Bools, delta: float, alpha: float) -> tuple[int, int]:
    """(k_in, k_out) of the largest bound on these canaries: shares 1, 1/2, 1/4, ... of them and none, on each side."""
    m = ranked.size
    sizes = np.unique(np.append(0, np.ceil(m * _SHARES).astype(np.int64)))
    right_in = np.append(0, np.cumsum(ranked))[sizes]
    right_out = np.append(0, np.cumsum(~ranked[::-1]))[sizes]
    pairs: Ints = np.argwhere((sizes[:, None] + sizes <= m) & (sizes[:, None] + sizes > 0))
    guesses = sizes[pairs[:, 0]] + sizes[pairs[:, 1]]
    correct = right_in[pairs[:, 0]] + right_out[pairs[:, 1]]
    most = one_run_closed_form(guesses, correct, alpha)
    best, chosen = -1.0, pairs[0]
    for k in np.lexsort((correct / guesses, most))[::-1]:
        if most[k] <= best:
            break  # delta only lowers the bound: no later pair can win
        value = one_run_epsilon(m, int(guesses[k]), int(correct[k]), delta=delta, alpha=alpha).value
        if value > best:
            best, chosen = value, pairs[k]
    return int(sizes[chosen[0]]), int(sizes[chosen[1]])
