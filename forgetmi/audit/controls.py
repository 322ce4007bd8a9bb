"""Attacks of which the answer is known beforehand: does the audit measure memory, or something else?

An attack that tells forgotten from test patients may tell *how they were drawn* (a season, a site, harder cases)
instead of whether the model saw them. Controls attack groups that do not differ in that, by the loss:

* members against members (a random half of the retained patients against the other half; and the forgotten against the
  retained ones, who were both in the original's training): 0.5 is expected;
* outsiders against outsiders (validation against test patients): 0.5 is expected;
* permuted labels: the headline AUC when it is dealt out at random who was forgotten.

Beside them stand the retrained models (the ceiling: what "never seen" looks like) and the original (positive control).
The three that have an expected value share one error (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forgetmi.attacks.membership.result import AttackResult
from forgetmi.audit.measurements import Measurement, generator
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import PartInfo
from forgetmi.metrics.intervals import auc_interval
from forgetmi.metrics.roc import Bools, auc
from forgetmi.metrics.testing import permutation_null

PERMUTATIONS = 999


def control_attacks(
    original: Measurement,
    unlearned: Measurement,
    retrained: Sequence[Measurement],
    parts: Mapping[str, PartInfo],
    options: AuditOptions,
    seed: int,
) -> dict[str, Any]:
    """Every control, by key. Arguments as in :func:`forgetmi.audit.evidence.build_evidence`."""
    losses = {name: np.asarray(scores["nll"], dtype=np.float64) for name, scores in original.scores.parts.items()}
    patients = {name: info.patients for name, info in parts.items()}
    first = random_half(patients["retain"], generator(seed, "control halves"))
    level = 1.0 - (1.0 - options.level) / 3.0

    def attack(key: str, label: str, question: str, consequence: str, sides: Sequence[tuple[Any, Any]]) -> Any:
        member = np.repeat([True, False], [len(side[0]) for side in sides])
        scores = -np.concatenate([side[0] for side in sides])
        who = np.concatenate([side[1] for side in sides])
        sizes = tuple(int(np.unique(side[1]).size) for side in sides)
        common = {"label": label, "question": question, "model": "original", "expected": 0.5, "n_patients": sizes}
        if min(len(side[0]) for side in sides) == 0:
            nothing = {"auc": None, "low": None, "high": None, "as_expected": None, "reason": "a side is empty"}
            return {**common, **nothing, "consequence": consequence}
        interval = auc_interval(
            scores, member, who, generator(seed, f"control {key}"), n_resamples=options.n_bootstrap, level=level
        )
        inside = None if interval.low is None else interval.contains(0.5)
        return {
            **common,
            "auc": auc(scores, member),
            "low": interval.low,
            "high": interval.high,
            "as_expected": inside,
            "reason": interval.reason,
            "consequence": consequence,
        }

    def part(name: str, rows: Any = slice(None)) -> tuple[Any, Any]:
        return losses[name][rows], patients[name][rows]

    return {
        "level": level,
        "attacks": {
            "member_vs_member": attack(
                "member_vs_member",
                "half of the retained patients against the other half",
                "Does the audit see a difference where there is none?",
                f"Random halves differ by chance alone: outside in 1 of {round(1.0 / (1.0 - level))} audits by "
                "chance, otherwise the measuring is at fault.",
                (part("retain", first), part("retain", ~first)),
            ),
            "forget_vs_retain": attack(
                "forget_vs_retain",
                "forgotten against retained patients (both were in training)",
                "Were the forgotten patients like the others before forgetting?",
                "If not 0.5: forgotten patients are unlike others for reasons that are not memory, and attack figures "
                "mix the two. Compare with the retrained models, never with 0.5.",
                (part("forget"), part("retain")),
            ),
            "validation_vs_test": attack(
                "validation_vs_test",
                "validation against test patients (neither was in training)",
                "Are the outsiders one population?",
                "If not 0.5: the outsiders differ by how they were drawn (time, site), and so may forgotten and test "
                "patients.",
                (part("validation"), part("test")),
            ),
        },
        "permutation": {
            "original": permuted(original.attacks[options.headline], generator(seed, "permutation")),
            "unlearned": permuted(unlearned.attacks[options.headline], generator(seed, "permutation")),
        },
        "ceiling": [m.attacks[options.headline].figures["auc"].value for m in retrained],
        "positive": {
            "auc": original.attacks[options.headline].figures["auc"].value,
            "low": original.attacks[options.headline].figures["auc"].interval.low,
            "high": original.attacks[options.headline].figures["auc"].interval.high,
        },
    }


def random_half(patients: Any, rng: np.random.Generator) -> Bools:
    """Records [n] of a random half of the patients (the smaller half where they are odd)."""
    names, codes = np.unique(np.asarray(patients), return_inverse=True)
    chosen = np.zeros(names.size, dtype=np.bool_)
    chosen[rng.permutation(names.size)[: names.size // 2]] = True
    result: Bools = chosen[codes]
    return result


def permuted(result: AttackResult, rng: np.random.Generator) -> dict[str, Any]:
    """An attack's AUC beside those of memberships that were dealt out at random among the patients."""
    assert result.scores is not None  # a headline has scores
    assert result.member is not None
    assert result.patient is not None
    null = permutation_null(result.scores, result.member, result.patient, rng, n=PERMUTATIONS)
    low, high = null.band()
    return {
        "value": null.auc,
        "n_permutations": PERMUTATIONS,
        "mean": float(null.nulls.mean()),
        "low": low,
        "high": high,
        "p": null.p_two_sided,
    }
