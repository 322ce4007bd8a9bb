"""Classification: multiclass, ordinal and multilabel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor  # torch.func offers no public way to ask

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, DataError, MethodError, ModelError
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.divergence import bernoulli_kl, categorical_kl, excluded
from forgetmi.tasks.ranking import ranking_loss
from forgetmi.tasks.tokens import TokenFunction


@dataclass(frozen=True)
class ClassificationTask:
    """Scores a classifier.

    Attributes:
        n_classes: C, classes or (multilabel) labels.
        kind: ``multiclass``, ``ordinal`` (class indices with an order; the likelihood is the multiclass one) or
            ``multilabel`` (independent labels; unknown ones, NaN, count for nothing).
        loss_kind: what the model is trained with. ``fused``: cross-entropy on ``logits``. ``per_modality``: the mean
            over modalities of the cross-entropy of each one's own head. ``published``: the published Forget-MI
            training loss, cross-entropy of each modality's head summed, plus the ranking loss
            (:func:`~forgetmi.tasks.ranking.ranking_loss`), between the first two modalities' embeddings.
    """

    n_classes: int
    kind: Literal["multiclass", "ordinal", "multilabel"] = "multiclass"
    loss_kind: Literal["fused", "per_modality", "published"] = "fused"

    name: ClassVar[str] = "classification"
    embeddings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        problems = []
        if self.n_classes < (1 if self.kind == "multilabel" else 2):
            problems.append(f"n_classes must be at least 2 (1 when multilabel), not {self.n_classes}")
        if self.kind == "multilabel" and self.loss_kind == "published":
            problems.append("the published loss compares class indices and has no multilabel form; use 'fused'")
        if problems:
            raise ConfigError(problems)

    def output(self, model: nn.Module, batch: Batch) -> ModelOutput:
        """The model's output."""
        output: ModelOutput = model(batch)
        return output

    def nll(self, model: nn.Module, batch: Batch) -> Tensor:
        """[B], see :meth:`nll_of`."""
        return self.nll_of(self.output(model, batch), batch)

    def nll_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B]: -log p(y); multilabel: the sum over known labels of the binary cross-entropy."""
        return self._nll(output.logits, batch)

    def _nll(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = self._checked_labels(batch)
        if self.kind == "multilabel":
            return _label_nll(logits, labels).sum(dim=1)
        # No label is ignored: torch's default, -100, would pass as a record with loss 0.
        return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=-(2**31))

    def token_nll(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, T], [B, T]): a record is a sequence of one token, its label; or of one for each independent label."""
        logits = self.output(model, batch).logits
        if self.kind == "multilabel":
            return _label_nll(logits, self._checked_labels(batch)), self.token_mask(batch)
        return self._nll(logits, batch)[:, None], self.token_mask(batch)

    def token_mask(self, batch: Batch) -> Tensor:
        """[B, T]: true, but for labels that are not known."""
        labels = self._labels(batch)
        return ~labels.isnan() if self.kind == "multilabel" else torch.ones_like(labels, dtype=torch.bool)[:, None]

    def over_tokens(self, function: TokenFunction, batch: Batch, *outputs: ModelOutput) -> tuple[Tensor, Tensor]:
        """([B, 1], [B, 1]): of each record's logits and label. Refused for independent labels: no vocabulary."""
        if self.kind == "multilabel":
            raise MethodError(
                f"the task {self.name!r} with independent labels was asked for one distribution over all of them",
                fix="choose a method that works on likelihoods: forgetmi ls methods",
            )
        return function(*(output.logits for output in outputs), self._labels(batch))[:, None], self.token_mask(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar that the model is trained with, a mean over the batch."""
        return self.loss_of(self.output(model, batch), batch)

    def loss_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The same, from an output that is there already."""
        if self.loss_kind == "fused":
            return self.nll_of(output, batch).mean()
        if not output.unimodal_logits:
            raise ModelError(
                f"loss_kind {self.loss_kind!r} needs one head a modality, and this model has a fused head only",
                fix="build the model with heads: per_modality or both, or use loss_kind: fused",
            )
        per_head = [_masked_mean(self._nll(z, batch), output.present.get(m)) for m, z in output.unimodal_logits.items()]
        summed = torch.stack(per_head).sum()
        if self.loss_kind == "per_modality":
            return summed / len(per_head)
        if len(output.unimodal) < 2:
            raise ModelError("the published loss ranks pairs of two modalities; this model has one")
        first, second = list(output.unimodal)[:2]
        both = _both(output.present.get(first), output.present.get(second))
        labels = self._labels(batch)
        studies = (batch.indices if batch.studies is None else batch.studies).to(labels.device)
        return summed + ranking_loss(output.unimodal[first], output.unimodal[second], labels, studies, both)

    def signals(self, output: ModelOutput, batch: Batch) -> Mapping[str, Tensor]:
        """``nll`` [B] and ``logits`` [B, C]; what else an attacker derives, it derives from these."""
        return {"nll": self.nll_of(output, batch), "logits": output.logits.float()}

    def check_labels(self, batch: Batch) -> None:
        """Raise :class:`DataError` for missing labels, labels of the wrong kind and class indices out of range."""
        labels = self._labels(batch).detach().cpu()
        if self.kind == "multilabel":
            wrong = ((labels < 0) | (labels > 1)).any(dim=1).nonzero().flatten()
            expected, fix = "0, 1 or unknown", "make uncertain labels (-1 in some sources) 0, 1 or unknown"
        else:
            wrong = ((labels < 0) | (labels >= self.n_classes)).nonzero().flatten()
            expected, fix = f"0..{self.n_classes - 1}", "set the task's n_classes, or correct the label column"
        if len(wrong):
            raise DataError(
                f"the labels of {len(wrong)} records are out of range, the first is {labels[wrong[0]].tolist()}",
                where=f"record at position {int(batch.indices[wrong[0]])}",
                expected=expected,
                fix=fix,
            )

    def errors_of(self, output: ModelOutput, batch: Batch) -> Tensor:
        """[B]: 1 where the most likely class is not the label, else 0; multilabel: the share of known labels missed."""
        labels = self._labels(batch)
        if self.kind != "multilabel":
            return (output.logits.argmax(dim=1) != labels).float()
        known = ~labels.isnan()
        wrong = ((output.logits > 0) != (labels > 0.5)) & known
        return wrong.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def divergence(self, output: ModelOutput, target: ModelOutput, batch: Batch, temperature: float = 1.0) -> Tensor:
        """[B]: of the predicted classes, or of all labels (known or not: the models speak of each)."""
        kl = bernoulli_kl if self.kind == "multilabel" else categorical_kl
        return kl(output.logits, target.logits, temperature)

    def outcomes(self, output: ModelOutput) -> Tensor:
        """[B, C], or (multilabel) [B, 2 L]: of each label being 1, then of each being 0.

        Independent labels have no cross terms in their Fisher matrix, so these 2 L stand for all 2^L.
        """
        logits = output.logits.float()
        if self.kind != "multilabel":
            return -F.log_softmax(logits, dim=1)
        return torch.cat([F.softplus(-logits), F.softplus(logits)], dim=1)

    def without_truth(self, output: ModelOutput, batch: Batch) -> ModelOutput:
        """Refused for independent labels: without the true value only its opposite is left."""
        if self.kind == "multilabel":
            raise MethodError(
                f"the task {self.name!r} with independent labels was asked for an answer other than the true one",
                fix="choose a method that does not change targets: forgetmi ls methods",
            )
        return ModelOutput(excluded(output.logits, self._labels(batch)))

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The batch with other labels [B] or (multilabel) [B, L].

        Raises:
            DataError: the labels are of another form, or not one a record.
        """
        changed = replace(batch, labels=labels.to(batch.device))
        if len(self._labels(changed)) != len(batch):
            raise DataError(f"{len(labels)} labels for {len(batch)} records", expected="one each")
        return changed

    def random_labels(self, labels: Tensor, generator: torch.Generator, *, exclude_true: bool) -> Tensor:
        """Uniform classes; multilabel: fair coins for the known labels (unknown ones stay unknown), of which at least
        one comes out differently if ``exclude_true`` (our reading; a record without a known label stays as it is).
        """
        if self.kind != "multilabel":
            if exclude_true:  # a shift by 1..C-1 reaches each other class with the same chance
                return (labels + torch.randint(1, self.n_classes, labels.shape, generator=generator)) % self.n_classes
            return torch.randint(0, self.n_classes, labels.shape, generator=generator)
        known = ~labels.isnan()
        flips = torch.rand(labels.shape, generator=generator) < 0.5
        while exclude_true and len(same := (known.any(dim=1) & ~(flips & known).any(dim=1)).nonzero()[:, 0]):
            flips[same] = torch.rand((len(same), labels.shape[1]), generator=generator) < 0.5
        return torch.where(flips & known, 1.0 - labels, labels)

    def _checked_labels(self, batch: Batch) -> Tensor:
        labels = self._labels(batch)
        # On a GPU looking would make it wait, and inside torch.func there is nothing to look at; there, what comes in
        # is checked before.
        if labels.device.type == "cpu" and not is_functorch_wrapped_tensor(labels):
            self.check_labels(batch)
        return labels

    def _labels(self, batch: Batch) -> Tensor:
        """The labels, of the right kind and shape: others would broadcast or be read as class probabilities."""
        labels = batch.labels
        if labels is None:
            raise DataError("the records have no label, and classification needs one")
        if self.kind == "multilabel":
            if labels.ndim != 2 or labels.shape[1] != self.n_classes:
                raise DataError(f"labels have shape {tuple(labels.shape)}", expected=f"[B, {self.n_classes}]")
        elif labels.ndim != 1 or labels.is_floating_point():
            raise DataError(
                f"labels of shape {tuple(labels.shape)} and type {labels.dtype} are not class indices",
                expected=f"[B] integers 0..{self.n_classes - 1}",
            )
        return labels


def _label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, L]: binary cross-entropy; 0 where a label is not known."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return losses * ~labels.isnan()


def _masked_mean(losses: Tensor, present: Tensor | None) -> Tensor:
    """The mean over records that have the modality; 0 where none has."""
    if present is None:
        return losses.mean()
    return (losses * present).sum() / present.sum().clamp(min=1)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first & second if first is not None and second is not None else None
