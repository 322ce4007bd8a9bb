"""``compare.json``: the published shape of audits side by side."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from forgetmi.audit.document import Count, Document, Seconds, Sha256
from forgetmi.audit.evidence_schema import Decision, FoundEvidence, Meaning, Position, ReadingEvidence


class CriterionOfRun(Document):
    """One figure of the rule in one run."""

    label: str
    kind: str
    unlearned: ReadingEvidence
    level: float
    retrained_low: float | None
    retrained_high: float | None
    unlearned_position: Position | None
    meaning: Meaning | None


class RunOfComparison(Document):
    """What one audit found."""

    name: str
    method: str
    decision: Decision
    summary: str
    flags: list[str] = Field(description="what is wrong with the model, in words")
    destroyed: bool = Field(description="over-forgotten, or useless, or perhaps useless: never a success")
    criteria: dict[str, CriterionOfRun]
    patients: Count
    known: FoundEvidence
    marked: FoundEvidence
    unlearned_seconds: Seconds | None
    share_of_retraining: float | None
    n_retrained: Count
    cautions: Count
    weights_sha256: Sha256 | None


class PairedDifference(Document):
    """A figure of one run minus that of another, over the same patients."""

    first: str
    second: str
    figure: str
    value: float
    low: float | None
    high: float | None
    level: float
    reason: str | None


class GroupOfRuns(Document):
    """Runs that answer the same question: same request, data, options and definitions."""

    question: dict[str, Any] = Field(description="what these runs have in common")
    runs: list[RunOfComparison]
    paired: list[PairedDifference]
    not_paired: str | None = Field(description="why there are no paired differences")


class DifferenceOfRuns(Document):
    """What keeps a group apart from the first one."""

    runs: list[str]
    compared_with: list[str]
    differs: list[str]


class CompareDocument(Document):
    """``compare.json``."""

    schema_name: Literal["forgetmi.compare/1"] = Field(alias="schema")
    made: str
    forgetmi: str
    groups: list[GroupOfRuns]
    alone: list[RunOfComparison] = Field(description="runs that no other one can be compared with")
    apart: list[DifferenceOfRuns]
