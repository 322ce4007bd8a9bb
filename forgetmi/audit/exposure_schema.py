"""``exposure.json``: the published shape. Every number that its report shows stands here under a key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from forgetmi.audit.document import Count, Document, Sha256
from forgetmi.audit.evidence_schema import (
    AttackDefinition,
    CurveEvidence,
    FigureEvidence,
    FoundEvidence,
    IntervalEvidence,
)

Direction = Literal["known", "marked"]


class SourceEvidence(Document):
    """The file of signals, and how it was understood."""

    file: str
    sha256: Sha256
    rows: Count
    kind: Literal["loss", "probabilities", "logits", "phi", "correct"]
    classes: Count | None
    queries: Count = Field(description="views a record")
    models: list[str]
    groupings: list[str]
    notes: list[str]


class PartOfFile(Document):
    """How many."""

    patients: Count
    samples: Count = Field(description="records")
    most: Count = Field(description="records of the patient who has most")


class LookEvidence(Document):
    """One look at one attack on one model."""

    attack: str
    kind: Literal["ranking", "standing_out"]
    direction: Direction
    value: float = Field(description="AUC, or the share of people scored beyond every outsider")
    interval: IntervalEvidence
    count: Count | None = Field(description="people scored beyond every outsider")
    p: float
    p_adjusted: float = Field(description="Holm, over all looks at the model")


class DecisionEvidence(Document):
    """What the rule says of the model that is asked about."""

    outcome: Literal["exposed", "none_found", "cannot_tell"]
    model: str
    summary: str
    reasons: list[str]
    limit: str = Field(description="what this audit could not have seen")
    advice: list[str]
    cautions: list[str]
    findings: list[LookEvidence]
    explained: list[LookEvidence] = Field(description="findings that models which never saw the people show as well")
    alpha: float
    n_looks: Count
    detectable_auc: float | None
    noticed_people: Count | None
    largest_auc: float | None
    members: Count = Field(description="people")
    outsiders: Count = Field(description="people")


class PeopleEvidence(Document):
    """People found by one attack on one model."""

    known: FoundEvidence
    marked: FoundEvidence
    beyond_all_known: Count = Field(description="people scored above every outsider")
    beyond_all_marked: Count = Field(description="people scored below every outsider")


class AttackOnModel(Document):
    """All figures of one attack on one model."""

    figures: dict[str, FigureEvidence]
    people: PeopleEvidence
    roc: CurveEvidence
    looks: list[LookEvidence]


class RangeEvidence(Document):
    """Where an attack's AUC lies among those on retrained models."""

    low: float
    high: float
    n_retrained: Count
    positions: dict[str, Literal["below", "inside", "above"] | None] = Field(description="model to where it lies")


class NotRun(Document):
    """An attack that the file does not permit."""

    attack: str
    reason: str


class ControlEvidence(Document):
    """Two groups of people who were never in training, against each other: anything but 1/2 is no memory."""

    first: str
    second: str
    model: str
    attack: str
    auc: FigureEvidence
    p: float


class GroupEvidence(Document):
    """A group that is large enough to be published."""

    name: str
    members: Count
    outsiders: Count
    auc: FigureEvidence
    p: float
    p_adjusted: float


class GroupingEvidence(Document):
    """One grouping."""

    groups: list[GroupEvidence]
    n_left_out: Count


class ExposureDocument(Document):
    """``exposure.json``."""

    schema_name: Literal["forgetmi.exposure/1"] = Field(alias="schema")
    made: str
    forgetmi: str
    seed: int
    options: dict[str, Any]
    source: SourceEvidence
    parts: dict[str, PartOfFile]
    headline: str | None
    lacks: list[str] = Field(description="what the file lacks for the full audit and its verdict")
    decision: DecisionEvidence | None = Field(description="null where evidence.json stands beside, with a verdict")
    attacks: dict[str, AttackDefinition]
    models: dict[str, dict[str, AttackOnModel]] = Field(description="model to attack to figures")
    ranges: dict[str, RangeEvidence]
    not_run: list[NotRun]
    controls: list[ControlEvidence]
    groupings: dict[str, GroupingEvidence]
