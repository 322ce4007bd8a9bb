"""Signals that somebody exported, checked and in arrays: what an audit of models that are not here is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forgetmi.attacks.membership import signals
from forgetmi.attacks.membership.result import PartSignals, References
from forgetmi.errors import AuditError
from forgetmi.metrics.roc import Bools, Floats, Ints

Kind = Literal["loss", "probabilities", "logits", "phi", "correct"]
TARGETS = ("target", "original", "unlearned")
REFERENCES = {"retrained": "retrained", "shadow": "shadows", "unlearned-shadow": "unlearned_shadows"}
MODEL_NAME = re.compile(r"(target|original|unlearned)|(retrained|shadow|unlearned-shadow)-\d+")


@dataclass(frozen=True)
class PartRows:
    """What is known of a part's n records besides the models' answers.

    Attributes:
        patients: patient of each record [n], as an arbitrary code: never an id.
        labels: class of each record [n], or ``None`` where the signals need none.
        groups: name of a grouping (``sex``) to the group of each record [n].
    """

    patients: Ints
    labels: Ints | None
    groups: Mapping[str, NDArray[np.str_]]

    @property
    def n_patients(self) -> int:
        """How many different patients."""
        return int(np.unique(self.patients).size)


@dataclass(frozen=True)
class SignalsTable:
    """A file of signals, read.

    Attributes:
        file, sha256, n_rows: which file.
        kind: what it holds of each record.
        n_classes: C of probabilities and logits.
        n_queries: q views a record; view 0 is the record as it is.
        parts: part to its records.
        values: model to part to the given numbers: [n, q], or [n, q, C] of probabilities (as their logarithms) and
            logits.
        seen: reference model to part to whether it saw the records [n].
        phi_known: whether a scaled logit follows from the losses: from losses of exactly 0 it does not.
        notes: how the file was understood, and what its reader must know; without ids.
    """

    file: str
    sha256: str
    n_rows: int
    kind: Kind
    n_classes: int | None
    n_queries: int
    parts: Mapping[str, PartRows]
    values: Mapping[str, Mapping[str, Floats]]
    seen: Mapping[str, Mapping[str, Bools]]
    phi_known: bool = True
    notes: Sequence[str] = ()

    @property
    def targets(self) -> list[str]:
        """The models that are attacked: target, original, unlearned."""
        return [name for name in TARGETS if name in self.values]

    def references(self, kind: str) -> list[str]:
        """Models of a kind (``retrained``, ``shadows``, ``unlearned_shadows``), by number."""
        found = [name for name in self.values if REFERENCES.get(name.rpartition("-")[0]) == kind]
        return sorted(found, key=lambda name: int(name.rpartition("-")[2]))

    def order(self, model: str) -> int:
        """Where a model stands in tables: attacked models first, the original before the unlearned one."""
        return [*self.targets, *self.references("retrained")].index(model)

    @property
    def signal_names(self) -> tuple[str, ...]:
        """The signals that follow from what was given."""
        return tuple(self.signals(next(iter(self.values)), "forget"))

    def signals(self, model: str, part: str) -> dict[str, Floats]:
        """Signals of a part's records under a model.

        ``loss``, ``entropy`` and ``modified_entropy`` [n] are those of view 0, the record as it is; ``scaled_logit``
        and ``correct`` are of all views, [n] or [n, q].
        """
        values, labels = self.values[model][part], self.parts[part].labels
        if self.kind == "correct":
            return {"correct": _views(values)}
        if self.kind == "loss":
            return {"loss": values[:, 0], **({"scaled_logit": _phi_of_loss(values)} if self.phi_known else {})}
        if self.kind == "phi":
            return {"loss": np.logaddexp(0.0, -values[:, 0]), "scaled_logit": _views(values)}
        if labels is None:
            raise AuditError("probabilities and logits need labels")
        n, q, n_classes = values.shape
        phi = signals.scaled_logit(values.reshape(n * q, n_classes), np.repeat(labels, q)).reshape(n, q)
        return {
            "loss": signals.nll(values[:, 0], labels),
            "entropy": signals.entropy(values[:, 0]),
            "modified_entropy": signals.modified_entropy(values[:, 0], labels),
            "scaled_logit": _views(phi),
        }

    def part_signals(self, model: str, part: str) -> PartSignals:
        """A part as attacks take it: signals, patients, and reference models (never the attacked one itself)."""
        references = {}
        for kind in REFERENCES.values():
            names = [name for name in self.references(kind) if name != model and part in self.values[name]]
            if names:
                each = [self.signals(name, part) for name in names]
                references[kind] = References(
                    {signal: np.stack([found[signal] for found in each]) for signal in each[0]},
                    np.stack([self.seen[name][part] for name in names]),
                )
        return PartSignals(self.signals(model, part), self.parts[part].patients, references)

    def scores_of(self, model: str) -> dict[str, dict[str, Any]]:
        """Part to ``nll`` [n] and ``logits`` [n, C] of view 0, for the full audit."""
        return {
            part: {"nll": self.signals(model, part)["loss"], "logits": values[:, 0]}
            for part, values in self.values[model].items()
        }


def _views(values: Floats) -> Floats:
    return values[:, 0] if values.shape[1] == 1 else values


def _phi_of_loss(loss: Floats) -> Floats:
    """ln(p / (1 - p)) of p = exp(-loss), for positive losses; for large ones that is -loss.

    Our reading for losses that are no -ln p (a mean over tokens, a weighted loss): the formula falls as the loss rises,
    so that a ranking by it is the ranking by -loss.
    """
    return _views(-loss - np.log(-np.expm1(-loss)))
