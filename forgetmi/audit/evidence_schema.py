"""``evidence.json``: the published shape. Every number that a report shows stands here under a key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from forgetmi.audit.criteria import Decision, Kind, Meaning
from forgetmi.audit.document import Count, Document, IntervalEvidence, Seconds, Sha256
from forgetmi.audit.evidence_sections import (
    ArraysEvidence,
    ControlAttacksEvidence,
    DeclaredEvidence,
    GeneralisationEvidence,
    PatientRiskEvidence,
    ShadowsEvidence,
    SpanEvidence,
    SubgroupsEvidence,
)
from forgetmi.metrics.figure import Position


class FigureEvidence(Document):
    """A number with its interval, its n, how to read it relative to retrained, and the counts it follows from."""

    name: str
    value: float | None
    interval: IntervalEvidence
    n_patients: Count
    n_samples: Count
    direction: Literal["remembers_above", "remembers_below", "useful_above", "useful_below", "closest_at_one"]
    sentence: str
    counts: dict[str, int]
    reason: str | None


class GapEvidence(Document):
    """Where a value stands among the retrained models' values."""

    value: float
    mean_gap: float = Field(description="value minus the mean of the retrained values")
    low: float
    high: float
    n_retrained: Count
    position: Position
    position_widened: Position | None = Field(description="of the value's interval: inside when they overlap")
    z: float | None
    z_reason: str | None


class CellEvidence(Document):
    """One model in a row of the comparison."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    interval_method: str
    reason: str | None
    sentence: str
    counts: dict[str, int]
    gap: GapEvidence | None
    reading: str | None


class RetrainedCells(Document):
    """The retrained models in a row of the comparison."""

    values: list[float | None]
    sentences: list[str]
    low: float | None
    high: float | None
    mean: float | None
    reason: str | None


class RowEvidence(Document):
    """One figure of all models side by side."""

    group: Literal[
        "people",
        "attacks",
        "forget",
        "test",
        "retain",
        "published",
        "memorisation",
        "extraction",
        "quantisation",
        "relearning",
        "hierarchical",
    ]
    label: str
    direction: str
    n_patients: Count
    n_samples: Count
    original: CellEvidence
    unlearned: CellEvidence
    retrained: RetrainedCells
    controls: dict[str, CellEvidence] = Field(default={}, description="models that were made to compare with, by name")


class ReadingEvidence(Document):
    """A value and its interval at the level at which it is judged."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class CriterionEvidence(Document):
    """A figure that the rule looks at."""

    label: str
    kind: Kind
    headline: bool
    level: float
    original: ReadingEvidence
    unlearned: ReadingEvidence
    retrained: list[ReadingEvidence]
    retrained_low: float | None
    retrained_high: float | None
    original_position: Position | None
    unlearned_position: Position | None
    meaning: Meaning | None
    sentence: str


class FindingEvidence(Document):
    """A criterion outside, or not judged."""

    criterion: str
    meaning: Meaning
    sentence: str


class VerdictEvidence(Document):
    """What the rule says."""

    decision: Decision
    summary: str
    reasons: list[str]
    advice: list[str]
    findings: list[FindingEvidence]
    positions: dict[str, Position | None]
    informative: bool
    detectable_auc: float | None
    largest_unnoticed_auc: float | None
    cautions: list[str]


class ControlEvidence(Document):
    """The rule's answer on a model whose answer is known."""

    decision: Decision
    findings: list[FindingEvidence]


class ControlsEvidence(Document):
    """Held-out retrained models (should pass) and the untouched original (should fail)."""

    held_out_retrained: list[ControlEvidence]
    n_held_out: Count
    n_passed: Count
    n_failed: Count
    original: ControlEvidence
    destroyed: ControlEvidence | None = Field(default=None, description="random weights: must not pass")
    random_share: ControlEvidence | None = Field(
        default=None, description="unlearned a random share of the request by the same method"
    )


class FoundEvidence(Document):
    """Patients found under one model."""

    found: Count
    accused: Count = Field(description="test patients wrongly accused")
    low: Count | None
    high: Count | None
    share: float


class PeopleGroup(Document):
    """Patients found in one way, under all models."""

    original: FoundEvidence
    unlearned: FoundEvidence
    retrained: list[FoundEvidence]
    retrained_low: Count
    retrained_high: Count


class PeopleEvidence(Document):
    """Forgotten patients whom the headline attack finds at ``people_fpr``."""

    patients: Count
    outsiders: Count
    level: float
    known: PeopleGroup = Field(description="because the model knows them well")
    marked: PeopleGroup = Field(description="because the model treats them worse than others")


class PairEvidence(Document):
    """Cosine similarity of two models."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class PairsEvidence(Document):
    """Cosine similarities, and their mean."""

    pairs: list[PairEvidence]
    mean: float | None


class LikenessEvidence(Document):
    """Likeness to the retrained models, beside their likeness to each other."""

    original: PairsEvidence
    unlearned: PairsEvidence
    among_retrained: PairsEvidence


class SpreadEvidence(Document):
    """Values and their range."""

    values: list[float]
    mean: float
    low: float
    high: float


class TugEvidence(Document):
    """ToW and ToW-MIA."""

    tow: SpreadEvidence
    tow_mia: SpreadEvidence


class TugsEvidence(Document):
    """Against each retrained model, beside the retrained models among themselves."""

    original: TugEvidence
    unlearned: TugEvidence
    among_retrained: TugEvidence


class TimeEvidence(Document):
    """Unlearning's time against retraining's."""

    unlearned_seconds: Seconds | None
    retrained_seconds: list[Seconds | None]
    compared_with: Literal["retrained", "original"] | None
    compared_seconds: Seconds | None
    share_of_retraining: float | None
    reason: str | None


class AttackDefinition(Document):
    """What exactly an attack did: figures of other definitions do not compare."""

    definition: str
    options: dict[str, Any]
    notes: list[str]


class PublishedEvidence(Document):
    """The attack as published, for comparison only."""

    definition: str
    figures: dict[str, FigureEvidence]


class UtilityEvidence(Document):
    """A model's figures on one part."""

    figures: dict[str, FigureEvidence]
    class_counts: list[Count]
    absent_classes: list[Count]
    ece_bins: Count


class ByPatientEvidence(Document):
    """The headline attack on patients: one score a patient, the mean of their records'."""

    definition: str
    notes: list[str]
    figures: dict[str, FigureEvidence]


class ModelEvidence(Document):
    """All figures of one model."""

    role: Literal["original", "unlearned", "retrained"]
    index: Count
    weights_sha256: Sha256 | None = Field(description="null where only the model's answers are known")
    seconds: Seconds | None
    peak_memory_mb: float | None
    attacks: dict[str, dict[str, FigureEvidence]]
    published_svc: PublishedEvidence | None
    by_patient: ByPatientEvidence | None = Field(description="none where each patient has one record")
    utility: dict[str, UtilityEvidence]
    people: FigureEvidence
    people_marked: FigureEvidence
    exposed: FigureEvidence
    marked_out: FigureEvidence
    loss_difference: FigureEvidence
    headline_by_formula: IntervalEvidence = Field(description="of the headline AUC, by DeLong, not by resampling")


class ModelsEvidence(Document):
    """The three models."""

    original: ModelEvidence
    unlearned: ModelEvidence
    retrained: list[ModelEvidence]


class CurveEvidence(Document):
    """ROC vertices in counts; what lies inside of horizontal and vertical runs is left out."""

    tp: list[Count]
    fp: list[Count]
    n_members: Count
    n_nonmembers: Count


class CurvesEvidence(Document):
    """ROC curves of one attack."""

    original: CurveEvidence
    unlearned: CurveEvidence
    retrained: list[CurveEvidence]


class HistogramsEvidence(Document):
    """Records by loss: role to part to counts. The outermost bins hold all that lies beyond."""

    edges: list[float]
    unit: str
    counts: dict[str, dict[str, list[Count]]]


class PartEvidence(Document):
    """How many."""

    patients: Count
    samples: Count
    records_per_patient: SpanEvidence


class TaskEvidence(Document):
    """The task."""

    kind: Literal["multiclass", "ordinal", "multilabel", "causal_lm"]
    n_classes: Count


class EpsilonEvidence(Document):
    """A lower bound on epsilon, and the most that this sample could have certified."""

    value: float
    method: str
    delta: float
    alpha: float
    threshold_rule: str
    counts: dict[str, int]
    n_patients: Count
    most_certifiable: float
    assumptions: list[str]
    threshold: float | None
    mu: float | None


class OneRunEvidence(Document):
    """Coins of patients guessed from one model's scores."""

    definition: str
    n_canaries: Count
    guessed_in: Count
    guessed_out: Count
    guesses: Count
    correct: Count
    p_value: float = Field(description="of so many right guesses if nothing leaked")
    bound: EpsilonEvidence


class OneRunsEvidence(Document):
    """The one-run audit of the procedure: the first shadow model, its patients in or out by the toss of a coin."""

    before: OneRunEvidence = Field(description="after training")
    after: OneRunEvidence | None = Field(description="after the included patients were unlearned by the same method")


class EpsilonsEvidence(Document):
    """What the headline attack proves of the privacy loss, a patient's score being the mean of their records'."""

    original: EpsilonEvidence
    unlearned: EpsilonEvidence
    retrained: list[EpsilonEvidence]
    one_run: OneRunsEvidence | None


class EvidenceDocument(Document):
    """``evidence.json``."""

    schema_name: Literal["forgetmi.evidence/2"] = Field(alias="schema")
    seed: int
    options: dict[str, Any]
    task: TaskEvidence
    parts: dict[str, PartEvidence]
    verdict: VerdictEvidence
    criteria: dict[str, CriterionEvidence]
    controls: ControlsEvidence
    people: PeopleEvidence
    comparison: dict[str, RowEvidence]
    likeness: dict[str, LikenessEvidence] = Field(description="empty for language models")
    tug_of_war: TugsEvidence
    epsilon: EpsilonsEvidence
    time: TimeEvidence
    attacks: dict[str, AttackDefinition]
    references: dict[str, Count] = Field(description="reference models that attacks compared with, by kind")
    models: ModelsEvidence
    roc: dict[str, CurvesEvidence]
    histograms: HistogramsEvidence
    generalisation: GeneralisationEvidence
    subgroups: SubgroupsEvidence
    control_attacks: ControlAttacksEvidence
    shadows: ShadowsEvidence | None = Field(description="none where no shadow models were made")
    patients: PatientRiskEvidence
    arrays: ArraysEvidence
    declared: DeclaredEvidence | None = Field(default=None, description="what people declared, and what follows")
