"""What an audit is computed from: the scores of 2 + R models on four parts. No record and no id enters it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forgetmi.attacks.membership import signals
from forgetmi.audit.probes import Probe
from forgetmi.errors import AuditError
from forgetmi.partition import PARTS

Role = Literal["original", "unlearned", "retrained", "control"]
Arrays = NDArray[np.generic]
LANGUAGE_KEYS = ("nll", "n_tokens", "correct")
REFERENCE_PARTS = ("forget", "test", "validation")


@dataclass(frozen=True)
class PartInfo:
    """What is known of a part's records.

    Attributes:
        labels: class index [N], or [N, L] of 0, 1 and NaN for multilabel tasks. Language models: the number of answer
            tokens [N].
        patients: patient of each record [N], as an integer code: never an id.
        groups: attribute (``sex``, ``age``, ``site``, ``label``) to each record's value [N], as text.
    """

    labels: Arrays
    patients: NDArray[np.int64]
    groups: Mapping[str, Arrays] = field(default_factory=dict)

    def __post_init__(self) -> None:
        patients = np.asarray(self.patients)
        if not np.issubdtype(patients.dtype, np.integer):
            raise AuditError("patients must be integer codes", fix="number them: ids do not belong in an audit")
        if patients.ndim != 1 or len(patients) == 0 or len(np.asarray(self.labels)) != len(patients):
            raise AuditError(f"{len(np.asarray(self.labels))} labels and {patients.shape} patients: one each a record")
        for name, values in self.groups.items():
            if np.asarray(values).shape != patients.shape:
                raise AuditError(f"group {name!r} {np.asarray(values).shape}: one value a record, {patients.shape}")

    @property
    def n_patients(self) -> int:
        """How many different patients."""
        return int(np.unique(self.patients).size)


@dataclass(frozen=True)
class AuditContext:
    """The task behind the scores.

    Attributes:
        kind: ``multiclass``, ``ordinal``, ``multilabel`` or ``causal_lm``.
        n_classes: C, classes, (multilabel) labels or (language models) tokens of the vocabulary.
    """

    kind: Literal["multiclass", "ordinal", "multilabel", "causal_lm"]
    n_classes: int

    @property
    def multilabel(self) -> bool:
        """Whether labels are independent of each other."""
        return self.kind == "multilabel"

    @property
    def language(self) -> bool:
        """Whether the models are language models."""
        return self.kind == "causal_lm"


@dataclass(frozen=True)
class ModelScores:
    """One model's scores, as :func:`forgetmi.training.scoring.collect_signals` gives them.

    Attributes:
        role: which of the three models, or a control.
        index: number among the retrained models; 0 for the others.
        parts: part to ``{"nll": [N], "logits": [N, C]}``, for forget, retain, validation and test. Language models:
            ``nll`` a token, ``n_tokens``, ``correct`` (the share of tokens that are the likeliest one) and further
            signals of attacks, [N] each.
        weights_sha256: hash of the weights.
        seconds: of training (unlearned: of unlearning), or ``None`` where it was not measured.
        alone: whether it had the machine to itself meanwhile.
        peak_memory_mb: the same of memory.
        probes: further questions that it was asked, the same ones as the other models.
    """

    role: Role
    parts: Mapping[str, Mapping[str, Arrays]]
    weights_sha256: str
    index: int = 0
    seconds: float | None = None
    alone: bool = True
    peak_memory_mb: float | None = None
    probes: Sequence[Probe] = ()

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"retrained {self.index + 1}" if self.role == "retrained" else self.role

    def check(self, parts: Mapping[str, PartInfo], context: AuditContext) -> None:
        """Raise unless every part is there, fits its labels, is finite, and ``nll`` is that of ``logits`` and labels.

        The last one catches scores whose rows are in another order than the labels.

        Raises:
            AuditError: it is not so.
        """
        for name in PARTS:
            if name not in self.parts or name not in parts:
                raise AuditError(f"{self.title}: part {name!r} is missing", expected=", ".join(PARTS))
            if context.language:
                self._check_language(name, parts[name])
                continue
            nll, logits = (np.asarray(self.parts[name][key], dtype=np.float64) for key in ("nll", "logits"))
            n = len(parts[name].patients)
            if nll.shape != (n,) or logits.shape != (n, context.n_classes):
                raise AuditError(
                    f"{self.title}, {name}: nll {nll.shape} and logits {logits.shape}",
                    expected=f"({n},) and ({n}, {context.n_classes})",
                )
            if not (np.isfinite(nll).all() and np.isfinite(logits).all()):
                raise AuditError(f"{self.title}, {name}: scores are not finite", fix="the model is broken")
            again = signals.nll(logits, parts[name].labels, multilabel=context.multilabel)
            # logits come in single precision: where p_y is nearly 1 its logarithm has few digits
            wrong = int((~np.isclose(nll, again, rtol=1e-3, atol=1e-3)).sum())
            if wrong:
                raise AuditError(
                    f"{self.title}, {name}: nll does not follow from logits and labels for {wrong} of {n} records",
                    fix="score records and collect labels in the same order",
                )

    def _check_language(self, name: str, info: PartInfo) -> None:
        for key in (*LANGUAGE_KEYS, *self.parts[name]):
            values = np.asarray(self.parts[name].get(key, np.nan), dtype=np.float64)
            if values.shape != info.patients.shape or not np.isfinite(values).all():
                raise AuditError(
                    f"{self.title}, {name}: {key} {values.shape} is missing, not finite, or not one value a record",
                    expected=f"{info.patients.shape}, finite",
                    fix="the model is broken, or was scored on other records",
                )
        wrong = int((np.asarray(self.parts[name]["n_tokens"]) != np.asarray(info.labels)).sum())
        if wrong:
            raise AuditError(
                f"{self.title}, {name}: {wrong} records have another number of answer tokens than the part's",
                fix="score records and count tokens in the same order, by the same tokenizer",
            )


@dataclass(frozen=True)
class ReferenceScores:
    """The same records under K reference models, made to compare with and not to be judged.

    Attributes:
        kind: ``shadows`` (trained on a random half of the forget and test patients), ``unlearned_shadows`` (then made
            to unlearn that half) or ``retrained``.
        parts: part to ``{"nll": [K, N], "logits": [K, N, C], "seen": [K, N]}``, for forget, test and validation;
            ``seen``: whether the reference was trained on the record.
    """

    kind: str
    parts: Mapping[str, Mapping[str, Arrays]]

    @property
    def n_models(self) -> int:
        """K."""
        return len(self.parts["forget"]["nll"])

    def check(self, parts: Mapping[str, PartInfo], context: AuditContext) -> None:
        """Raise unless shapes fit the parts and everything is finite.

        Raises:
            AuditError: it is not so.
        """
        for name in REFERENCE_PARTS:
            if name not in self.parts:
                raise AuditError(f"{self.kind}: part {name!r} is missing", expected=", ".join(REFERENCE_PARTS))
            shape = (self.n_models, len(parts[name].patients))
            shapes = {"nll": shape, "seen": shape, "logits": (*shape, context.n_classes)}
            for key, expected in shapes.items():
                if key == "logits" and context.language:
                    continue
                values = np.asarray(self.parts[name][key])
                if values.shape != expected:
                    raise AuditError(f"{self.kind}, {name}: {key} {values.shape}", expected=str(expected))
                if key != "seen" and not np.isfinite(values.astype(np.float64)).all():
                    raise AuditError(f"{self.kind}, {name}: {key} not finite", fix="make that reference model again")


def retrained_as_references(retrained: Sequence[ModelScores]) -> ReferenceScores:
    """Retrained models as references: none saw a forget, test or validation record."""
    parts = {}
    for name in REFERENCE_PARTS:
        keys = [key for key in ("nll", "logits") if key in retrained[0].parts[name]]
        arrays = {key: np.stack([np.asarray(m.parts[name][key]) for m in retrained]) for key in keys}
        parts[name] = {**arrays, "seen": np.zeros(arrays["nll"].shape, dtype=np.bool_)}
    return ReferenceScores("retrained", parts)
