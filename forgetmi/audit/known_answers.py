"""The rule on models whose answer is known: retrained ones, which should pass, and the untouched original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from forgetmi.attacks.membership import ATTACKS
from forgetmi.audit.criteria import Criterion, as_candidate
from forgetmi.audit.measurements import attack_parts
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.scores import ModelScores
from forgetmi.audit.verdict import judge

_FEWEST = 100  # resamples, where an interval is not looked at


def known_answers(
    criteria: Sequence[Criterion],
    retrained: Sequence[ModelScores],
    source: SignalSource,
    sizes: Mapping[str, int],
    options: AuditOptions,
    seed: int,
) -> dict[str, Any]:
    """The rule on models whose answer is known: each retrained against the others, and the untouched original."""
    held_out = [
        outcome(_held_out(criteria, index, retrained, source, options, seed), sizes, options)
        for index in range(len(retrained))
    ]
    decisions = [control["decision"] for control in held_out]
    return {
        "held_out_retrained": held_out,
        "n_held_out": len(held_out),
        "n_passed": decisions.count("pass"),
        "n_failed": decisions.count("fail"),
        "original": outcome(as_candidate(criteria, "original"), sizes, options),
    }


def outcome(criteria: Sequence[Criterion], sizes: Mapping[str, int], options: AuditOptions) -> dict[str, Any]:
    """What the rule says of a candidate, briefly."""
    verdict = judge(criteria, **sizes, options=options)
    return {"decision": verdict.decision, "findings": [asdict(finding) for finding in verdict.findings]}


def _held_out(
    criteria: Sequence[Criterion],
    index: int,
    retrained: Sequence[ModelScores],
    source: SignalSource,
    options: AuditOptions,
    seed: int,
) -> list[Criterion]:
    """The criteria with a retrained model in the candidate's place.

    Attacks that compare with the retrained models are made again on the others, without the one held out: it would
    stand on both sides, and pull the others away from itself. With two retrained models that cannot be.
    """
    others = [model for i, model in enumerate(retrained) if i != index]
    comparing = [name for name in options.attacks if _references(name, source, options) == "retrained"]
    found = []
    left_out = {retrained[index].weights_sha256}
    given = [source.of(model, without=left_out) for model in others] if comparing and len(others) > 1 else []
    for criterion in as_candidate(criteria, index):
        name = criterion.key.removesuffix("_auc")
        if criterion.kind == "attack" and name in comparing and given:
            values = [attack_parts(name, parts, options, seed, _FEWEST).figures["auc"].value for parts in given]
            readings = tuple(replace(r, value=v) for r, v in zip(criterion.retrained, values, strict=True))
            criterion = replace(criterion, retrained=readings)
        found.append(criterion)
    return found


def _references(name: str, source: SignalSource, options: AuditOptions) -> str | None:
    """The kind of reference models that an attack compares with here."""
    kinds = getattr(ATTACKS[name], "references", ())
    chosen: str | None = options.attack_options.get(name, {}).get("reference_models") or next(
        (kind for kind in kinds if kind in source.n_references), None
    )
    return chosen
