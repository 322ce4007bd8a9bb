"""How well a language model serves: tokens that it would have written itself, loss a token, perplexity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.metrics.figure import Direction, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, PatientBootstrap
from forgetmi.metrics.roc import mean_statistic
from forgetmi.metrics.token_signals import perplexity_statistic
from forgetmi.metrics.utility import Utility


def language_utility(
    signals: Mapping[str, ArrayLike],
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    forgotten: bool,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> Utility:
    """Figures of one model on one part.

    ``accuracy`` and ``cross_entropy`` are means over records, so that a long note counts as much as a short one.
    ``perplexity`` is exp(sum of all tokens' losses / number of all tokens): one figure of the whole text, in which a
    long note counts for more.

    Args:
        signals: ``nll`` a token, ``correct`` (the share of tokens that are the likeliest one, given the true ones
            before) and ``n_tokens``, [N] each.
        patients: of each record [N].
        rng: of the resamples.
        forgotten: on the forget set, to be right is memory.
        n_resamples, level: of the intervals.
    """
    nll, correct, n_tokens = (np.asarray(signals[key], dtype=np.float64) for key in ("nll", "correct", "n_tokens"))
    bootstrap = PatientBootstrap(np.asarray(patients), rng, n_resamples=n_resamples, level=level)
    above: Direction = "remembers_above" if forgotten else "useful_above"
    below: Direction = "remembers_below" if forgotten else "useful_below"

    figures = [
        measure(
            "accuracy",
            mean_statistic(correct),
            bootstrap,
            direction=above,
            sentence="Of a record's answer tokens a share of {value:.3f} is the one that the model holds likeliest.",
            bounds=(0.0, 1.0),
        ),
        measure(
            "cross_entropy",
            mean_statistic(nll),
            bootstrap,
            direction=below,
            sentence="The mean loss is {value:.3f} nats a token.",
        ),
        measure(
            "perplexity",
            perplexity_statistic(nll * n_tokens, n_tokens),
            bootstrap,
            direction=below,
            sentence="The perplexity is {value:.2f}.",
        ),
    ]
    return Utility({figure.name: figure for figure in figures}, (), (), 0)
