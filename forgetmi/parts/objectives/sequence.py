"""What losses of language models are made of: sums and means of a quantity of each token, over answer tokens alone.

A value [B, T] and a mask [B, T] belong together column by column: where logits at t predict the token at t + 1, both
have been shifted already (:meth:`forgetmi.tasks.causal_lm.CausalLMTask.token_nll_of`). What stands outside the mask
changes nothing, be it infinite or NaN, so padding cannot. Sums of sequences and means over tokens make different
methods: gradient ascent on sums gives long answers more weight.
"""

from __future__ import annotations

from torch import Tensor


def sequence_sums(values: Tensor, mask: Tensor) -> Tensor:
    """[B]: the sum over each sequence's answer tokens; of -log p: the sequence's negative log-likelihood.

    Args:
        values: a quantity of each token [B, T].
        mask: true for answer tokens [B, T].
    """
    return values.masked_fill(~mask, 0.0).sum(dim=1)


def sequence_means(values: Tensor, mask: Tensor) -> Tensor:
    """[B]: the same, divided by the number of answer tokens |y|; 0 for a sequence that has none."""
    return sequence_sums(values, mask) / mask.sum(dim=1).clamp(min=1)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """A scalar: the mean over all answer tokens of the batch together; 0 if there are none.

    It is the mean of :func:`sequence_means` only where all answers have the same length.
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def after_first(mask: Tensor, n: int) -> Tensor:
    """The mask [B, T] without the first ``n`` answer tokens of each sequence; none is left of one that has no more."""
    return mask & (mask.cumsum(dim=1) > n)
