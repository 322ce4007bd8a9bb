"""What an attacker sees of each part's records under a model, and under the models to compare with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.attacks.membership import signals
from forgetmi.attacks.membership.result import PartSignals, References
from forgetmi.audit.scores import (
    LANGUAGE_KEYS,
    REFERENCE_PARTS,
    AuditContext,
    ModelScores,
    PartInfo,
    ReferenceScores,
    retrained_as_references,
)
from forgetmi.metrics.roc import Floats

SIGNAL_PARTS = ("forget", "retain", "test", "validation")


class SignalSource:
    """Gives the signals of any model. What reference models say of the records is computed once, for all models.

    Retrained models serve as references too. One of them that is itself looked at is left out of its own references.

    Args:
        parts: labels and patients.
        context: the task.
        retrained: the retrained models; none when there is nothing to compare with but ``references``.
        references: further reference models, by kind.
    """

    def __init__(
        self,
        parts: Mapping[str, PartInfo],
        context: AuditContext,
        retrained: Sequence[ModelScores] = (),
        references: Mapping[str, ReferenceScores] | None = None,
    ) -> None:
        self._parts, self._context = parts, context
        self._kept: dict[str, tuple[Any, dict[str, dict[str, Floats]]]] = {}
        self._hashes = [m.weights_sha256 for m in retrained]
        given = dict(references or {})
        for reference in given.values():
            reference.check(parts, context)
        if retrained:
            given["retrained"] = retrained_as_references(retrained)
        self.n_references = {kind: reference.n_models for kind, reference in given.items()}
        self._references = {
            kind: {part: self._reference_signals(reference, part) for part in REFERENCE_PARTS}
            for kind, reference in given.items()
        }

    def of(self, scores: ModelScores, without: Collection[str] = ()) -> dict[str, PartSignals]:
        """Part to signals, for forget, retain, test and validation.

        Args:
            scores: the model's.
            without: hashes of retrained models that are no references this time, besides the model itself.
        """
        left_out, own = {scores.weights_sha256, *without}, self._own(scores)
        return {
            part: PartSignals(own[part], self._parts[part].patients, self._for(left_out, part)) for part in SIGNAL_PARTS
        }

    def _own(self, scores: ModelScores) -> dict[str, dict[str, Floats]]:
        """A model's own signals by part, computed once: they do not depend on what it is compared with."""
        kept = self._kept.get(scores.weights_sha256)
        if kept is None or kept[0] is not scores.parts:
            kept = (scores.parts, {part: self._signals(scores, part) for part in SIGNAL_PARTS})
            self._kept[scores.weights_sha256] = kept
        return kept[1]

    def under(self, kind: str, part: str) -> References | None:
        """Signals of a part under the reference models of a kind; ``None`` where there are none."""
        return self._references.get(kind, {}).get(part)

    def _signals(self, scores: ModelScores, part: str) -> dict[str, Floats]:
        arrays, labels, multilabel = scores.parts[part], self._parts[part].labels, self._context.multilabel
        if self._context.language:
            loss = np.asarray(arrays["nll"], dtype=np.float64)
            more = {key: np.asarray(arrays[key], dtype=np.float64) for key in arrays if key not in LANGUAGE_KEYS}
            return {"loss": loss, "scaled_logit": signals.scaled_logit_of_nll(loss), **more}
        logits = arrays["logits"]
        found = {
            "loss": np.asarray(arrays["nll"], dtype=np.float64),
            "entropy": signals.entropy(logits, multilabel=multilabel),
            "modified_entropy": signals.modified_entropy(logits, labels, multilabel=multilabel),
            "scaled_logit": signals.scaled_logit(logits, labels, multilabel=multilabel),
        }
        if "correct" in arrays:
            found["correct"] = np.asarray(arrays["correct"], dtype=np.float64)
        for key in arrays:  # what one modality alone says, and whether the record has it
            if key.startswith("logits@"):
                modality = key.removeprefix("logits@")
                found[f"loss@{modality}"] = signals.nll(arrays[key], labels, multilabel=multilabel)
                found[f"scaled_logit@{modality}"] = signals.scaled_logit(arrays[key], labels, multilabel=multilabel)
            elif key.startswith("present@"):
                found[key] = np.asarray(arrays[key], dtype=np.float64)
        return found

    def _for(self, left_out: Collection[str], part: str) -> dict[str, References]:
        if part not in REFERENCE_PARTS:
            return {}
        found = {kind: references[part] for kind, references in self._references.items()}
        others = np.array([digest not in left_out for digest in self._hashes], dtype=np.bool_)
        if not others.all():
            every = found.pop("retrained")
            if others.any():
                values = {name: np.asarray(value)[others] for name, value in every.signals.items()}
                found["retrained"] = References(values, np.asarray(every.seen)[others])
        return found

    def _reference_signals(self, reference: ReferenceScores, part: str) -> References:
        arrays, labels = reference.parts[part], np.asarray(self._parts[part].labels)
        if self._context.language:
            nll = np.asarray(arrays["nll"], dtype=np.float64)
            return References({"loss": nll, "scaled_logit": signals.scaled_logit_of_nll(nll)}, arrays["seen"])
        logits = np.asarray(arrays["logits"], dtype=np.float64)
        flat, repeated = logits.reshape(-1, logits.shape[-1]), np.concatenate([labels] * len(logits))
        phi = signals.scaled_logit(flat, repeated, multilabel=self._context.multilabel)
        loss = np.asarray(arrays["nll"], dtype=np.float64)
        return References({"loss": loss, "scaled_logit": phi.reshape(loss.shape)}, arrays["seen"])
