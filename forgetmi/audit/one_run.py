"""The one-run audit of the *procedure*: the first shadow model, whose patients were in or out by the toss of a coin.

It says nothing of the released weights. It says what the recipe leaks of a patient, and what the method leaves of that
leak, with patients of whom the truth is known: a control that must find something before unlearning finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forgetmi.attacks.membership.one_run import OneRunResult, one_run_audit
from forgetmi.attacks.membership.patients import combine
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import PartInfo, ReferenceScores
from forgetmi.errors import AuditError

_TARGETS = ("forget", "test")
GUESSED = 0.25  # of the patients on either side; the auditor abstains on the others. Set beforehand


def one_run_section(
    references: Mapping[str, ReferenceScores],
    parts: Mapping[str, PartInfo],
    options: AuditOptions,
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """The audit after training and, where shadow models were unlearned, after unlearning; ``None`` without shadows.

    A patient's score is the mean over records of minus the loss, less what it is under the shadow models that did not
    see the record. Of these only later pairs are used: the twin of the first shadow model has the opposite coins.

    Args:
        references: by kind.
        parts: patients of forget and test records.
        options: level and delta.
        rng: for ties.

    Raises:
        AuditError: a patient has records that were in and records that were out.
    """
    if "shadows" not in references:
        return None
    before = _audit(references["shadows"], references["shadows"], parts, options, rng)
    unlearned = references.get("unlearned_shadows")
    after = None if unlearned is None else _audit(unlearned, references["shadows"], parts, options, rng)
    return {"before": before.to_dict(), "after": None if after is None else after.to_dict()}


def _audit(
    attacked: ReferenceScores,
    shadows: ReferenceScores,
    parts: Mapping[str, PartInfo],
    options: AuditOptions,
    rng: np.random.Generator,
) -> OneRunResult:
    def joined(scores: ReferenceScores, key: str) -> Any:
        return np.concatenate([np.asarray(scores.parts[part][key]) for part in _TARGETS], axis=1)

    loss, seen = joined(attacked, "nll")[0].astype(np.float64), joined(attacked, "seen")[0].astype(np.bool_)
    patients = np.concatenate([parts[part].patients for part in _TARGETS])
    others, out = joined(shadows, "nll")[2:].astype(np.float64), ~joined(shadows, "seen")[2:].astype(np.bool_)
    if len(others):
        counts = out.sum(axis=0)
        if (counts == 0).any():
            raise AuditError(f"{int((counts == 0).sum())} records were seen by every later shadow model")
        loss = loss - (others * out).sum(axis=0) / counts
    combined = combine(-loss, patients, "mean")
    included = combined.members(seen, patients)
    guesses = max(1, int(GUESSED * included.size))
    return one_run_audit(
        combined.scores,
        included,
        rng,
        patients=combined.patients,
        guesses=(guesses, guesses),
        delta=options.delta,
        alpha=1.0 - options.level,
        law=options.epsilon_law,
    )
