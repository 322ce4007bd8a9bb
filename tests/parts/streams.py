"""Logits of a forget, a retain and an alternative stream of tokens, and the losses that reference values are of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetmi.parts.objectives.ascent import ascent_loss
from forgetmi.parts.objectives.distil import ce_u_tokens, undial_tokens
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.preference import dpo_loss, simnpo_loss
from forgetmi.parts.objectives.primal_dual import flatness_tokens, lagrangian
from forgetmi.parts.objectives.reweighted import satimp_weights, wga_weights
from forgetmi.parts.objectives.sequence import after_first, sequence_means, sequence_sums, token_mean
from forgetmi.tasks.divergence import categorical_kl

NAMES = ("forget", "retain", "alternate")


def kl_loss(logits, reference_logits, mask):
    """The mean over all answer tokens of the batch of KL(reference || model)."""
    return token_mean(categorical_kl(logits, reference_logits.detach()), mask)


class Streams:
    """Logits [B, T, V] of a model and of its reference, and labels [B, T], of each stream."""

    def __init__(
        self, logits: Mapping[str, Tensor], reference: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> None:
        self.logits, self.reference, self.labels = logits, reference, labels
        self.mask = {name: found[:, 1:] != -100 for name, found in labels.items()}

    def nll(self, name, which="logits"):
        logits, labels = getattr(self, which)[name][:, :-1], self.labels[name][:, 1:]
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")

    def sums(self, name):
        """Of the model and of its reference."""
        return tuple(sequence_sums(self.nll(name, which), self.mask[name]) for which in ("logits", "reference"))

    def mean(self, name):
        return token_mean(self.nll(name), self.mask[name])

    def ascent(self, weights=None):
        return ascent_loss(self.nll("forget"), self.mask["forget"], weights)

    def npo(self, beta):
        return npo_loss(*self.sums("forget"), beta)

    def dpo(self, beta, scale="npo"):
        return dpo_loss(*self.sums("alternate"), *self.sums("forget"), beta, scale)

    def simnpo(self, beta, delta):
        return simnpo_loss(sequence_means(self.nll("forget"), self.mask["forget"]), beta, beta * delta)

    def ce_u(self, skipped):
        rows = ce_u_tokens(self.logits["forget"][:, :-1], self.labels["forget"][:, 1:])
        return token_mean(rows, after_first(self.mask["forget"], skipped))

    def wga(self, beta):
        return self.ascent(wga_weights(self.nll("forget"), beta))

    def satimp(self, beta1, beta2):
        return self.ascent(satimp_weights(self.nll("forget"), beta1, beta2))

    def kl(self):
        return kl_loss(self.logits["retain"][:, :-1], self.reference["retain"][:, :-1], self.mask["retain"])

    def undial(self, beta):
        shifted = (tensor["forget"][:, :-1] for tensor in (self.logits, self.reference))
        return token_mean(undial_tokens(*shifted, self.labels["forget"][:, 1:], beta), self.mask["forget"])

    def flatness(self):
        return token_mean(flatness_tokens(self.logits["forget"][:, :-1]), self.mask["forget"])

    # What published code computes where it is known to be wrong.

    def published_kl(self):
        """The mean over prompt and padding too, without a shift."""
        logits, reference = self.logits["retain"], self.reference["retain"]
        return kl_loss(logits, reference, torch.ones(logits.shape[:2], dtype=torch.bool))

    def published_undial(self, beta):
        """The mean over prompt and padding too, where the label -100 indexes the vocabulary from its end."""
        logits, mask = self.logits["forget"][:, :-1], self.mask["forget"]
        labels = torch.where(mask, self.labels["forget"][:, 1:], logits.shape[-1] - 100)
        rows = undial_tokens(logits, self.reference["forget"][:, :-1], labels, beta)
        return token_mean(rows, torch.ones_like(mask))

    def published_pdu(self, multiplier, epsilon):
        """The logits that follow each answer token, not those that predict it."""
        forget = token_mean(flatness_tokens(self.logits["forget"]), self.labels["forget"] != -100)
        return lagrangian(forget, self.mean("retain"), multiplier, epsilon)


def published_activation_loss(activations, target, mask):
    """mean_i(sum_i) mean_j(1 / n_j), from dividing [B] by [B, 1]; right for one sequence alone."""
    sums = ((activations - target).square().mean(dim=-1) * mask).sum(dim=1)
    return sums.mean() * mask.sum(dim=1).to(sums.dtype).reciprocal().mean()
