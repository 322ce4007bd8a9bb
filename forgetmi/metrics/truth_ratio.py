"""Does a model find the true answer likelier than wrong ones of the same form? TOFU's truth ratio and its relatives.

Of a question q, let a~ be a paraphrase of the right answer (of multiple-choice sets the right answer itself), A the
wrong answers, and l(a) the mean negative log-likelihood of a token of a, so that exp(-l(a)) = P(a|q)^(1/|a|). The truth
ratio (Maini et al. 2024, arXiv 2401.06121, section 2.2) is

    R = mean over a in A of P(a|q)^(1/|a|)  /  P(a~|q)^(1/|a~|)

R far below 1: the model knows which answer is right. R near 1: it cannot tell. The paper takes the *arithmetic* mean of
probabilities; TOFU's published code, and OpenUnlearning after it, takes the mean of their logarithms, which is the
*geometric* mean of probabilities (their issues #26, #138 and #160). Both are here, by name; the geometric one is the
smaller, and they are equal only where all wrong answers are equally likely.

Everything is kept as log R, because probabilities of long answers of a destroyed model underflow. Published code adds
1e-10 to denominators; nothing is added here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats

Averaging = Literal["arithmetic", "geometric"]
_MISSING = "it has no paraphrased or no wrong answer"


@dataclass(frozen=True)
class TruthRatios:
    """The truth ratio of each of N questions.

    Attributes:
        logs: log R [N]; NaN where a question has no right or no wrong answer.
        averaging: how wrong answers were averaged.
    """

    logs: Floats
    averaging: Averaging

    @property
    def values(self) -> Floats:
        """R itself [N]; infinite where it overflows."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.logs), dtype=np.float64)

    def closer_to_1_better(self, name: str = "truth_ratio", direction: Direction = "remembers_below") -> PerExample:
        """min(R, 1/R): 1 where the model cannot tell right from wrong; TOFU's figure of the forget set.

        A model that holds wrong answers for *likelier* than the right one is far from 1 too, so that over-forgetting
        may read as memory here; :meth:`prob_mean` tells the two apart.
        """
        return self._example(
            name,
            np.exp(-np.abs(self.logs)),
            direction,
            "Truth ratio {value:.3f}: 1 where right and wrong answers are equally likely.",
            "min(R, 1/R)",
        )

    def true_better(self, name: str = "truth_ratio", direction: Direction = "useful_above") -> PerExample:
        """max(0, 1 - R): 1 where only the right answer is likely; TOFU's figure of sets that must stay known."""
        return self._example(
            name,
            -np.expm1(np.minimum(self.logs, 0.0)),
            direction,
            "Truth ratio {value:.3f}: 1 where only the right answer is likely, 0 where a wrong one is as likely.",
            "max(0, 1 - R)",
        )

    def prob_mean(self, name: str = "truth_share", direction: Direction = "remembers_above") -> PerExample:
        """1 / (1 + R), the right answer's share of right and (mean) wrong probability.

        What OpenUnlearning's paper calls truth ratio (Dorna et al. 2025, arXiv 2506.12618); 1/2 where the two are
        equally likely.
        """
        return self._example(
            name,
            special.expit(-self.logs),
            direction,
            "Of the probability of right and wrong answers, the right one has {value:.1%}.",
            "1 / (1 + R)",
        )

    def _example(self, name: str, values: Floats, direction: Direction, sentence: str, definition: str) -> PerExample:
        mean = f"R with the {self.averaging} mean over wrong answers"
        return PerExample(name, values, direction, sentence, definition=f"{definition}; {mean}", missing=_MISSING)


def truth_ratios(right: ArrayLike, wrong: ArrayLike, *, averaging: Averaging = "arithmetic") -> TruthRatios:
    """The truth ratios of N questions.

    Args:
        right: [N] mean negative log-likelihood of a token of the (paraphrased) right answer; NaN: there is none.
        wrong: [N, A] the same of the wrong answers; NaN where a question has fewer than A.
        averaging: over the wrong answers: ``arithmetic`` as in TOFU's paper, ``geometric`` as in its published code.

    Raises:
        AuditError: shapes that do not fit together, or infinite values.
    """
    true, false = _checked(right, wrong)
    there = ~np.isnan(false)
    n_wrong = there.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if averaging == "arithmetic":
            log_wrong = special.logsumexp(np.where(there, -false, -np.inf), axis=1) - np.log(n_wrong)
        else:
            log_wrong = -np.where(there, false, 0.0).sum(axis=1) / n_wrong
    return TruthRatios(np.where(n_wrong > 0, log_wrong + true, np.nan), averaging)


def option_probability(
    right: ArrayLike, wrong: ArrayLike, *, name: str = "probability", per_token: bool = False
) -> PerExample:
    """The right answer's share of the probability of all answers on offer (TOFU, section 2.2: sets with choices).

    Args:
        right: [N] negative log-likelihood of the right answer.
        wrong: [N, A] of the wrong ones; NaN where a question has fewer than A.
        name: of the figure.
        per_token: what was given is the mean over an answer's tokens (published code) and not the sum (the paper).

    Raises:
        AuditError: shapes that do not fit together, or infinite values.
    """
    true, false = _checked(right, wrong)
    logits = np.column_stack([-true, np.where(np.isnan(false), -np.inf, -false)])
    known = ~np.isnan(true) & ~np.isnan(false).all(axis=1)
    shares = np.full(len(true), np.nan)
    shares[known] = special.softmax(logits[known], axis=1)[:, 0]
    what = "P(answer)^(1 / tokens)" if per_token else "P(answer)"
    return PerExample(
        name,
        shares,
        "useful_above",
        "Of the probability of all answers on offer, the right one has {value:.1%}.",
        definition=f"{what} of the right answer over its sum over all answers",
        missing="it has no wrong answer",
    )


def _checked(right: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    true, false = np.asarray(right, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if true.ndim != 1 or false.ndim != 2 or len(true) != len(false) or not false.size:
        raise AuditError(
            f"right answers {true.shape}, wrong ones {false.shape}", expected="[N] and [N, A], A at least 1"
        )
    if np.isinf(true).any() or np.isinf(false).any():
        raise AuditError("a negative log-likelihood is infinite", expected="finite, or NaN where there is no answer")
    return true, false
