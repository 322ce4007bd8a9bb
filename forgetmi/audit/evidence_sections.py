"""``evidence.json``: the shapes of the sections on subgroups, single patients, controls and declared figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forgetmi.audit.document import Count, Document, IntervalEvidence, Sha256

Reading = Literal["remembered", "over_forgotten", "no_difference_shown"]


class SpanEvidence(Document):
    """Records of a patient, over a part's patients."""

    min: Count
    median: float
    max: Count


class GapOfPartsEvidence(Document):
    """How much better a model does on what it was trained on."""

    retain_accuracy: float | None
    test_accuracy: float | None
    accuracy_gap: float | None = Field(description="retain minus test")
    retain_cross_entropy: float | None
    test_cross_entropy: float | None
    cross_entropy_gap: float | None = Field(description="test minus retain, nats")


class GeneralisationEvidence(Document):
    """Generalisation gaps: what an attacker lives on."""

    original: GapOfPartsEvidence
    unlearned: GapOfPartsEvidence
    retrained: list[GapOfPartsEvidence]


class GroupModelEvidence(Document):
    """One model's figures in a group."""

    auc: float = Field(description="of the headline attack, forgotten against test records of the group")
    auc_low: float | None
    auc_high: float | None
    found: Count = Field(description="forgotten patients of the group found at the decision box's threshold")
    found_low: float | None = Field(description="of the share found, Clopper-Pearson")
    found_high: float | None
    accused: Count = Field(description="test patients of the group wrongly accused")
    forget_accuracy: float | None
    test_accuracy: float | None


class GroupRetrainedEvidence(Document):
    """The retrained models' ranges in a group."""

    auc_low: float
    auc_high: float
    found_low: Count
    found_high: Count
    forget_accuracy_low: float | None
    forget_accuracy_high: float | None
    test_accuracy_low: float | None
    test_accuracy_high: float | None


class GroupEvidence(Document):
    """A group that is large enough to be published."""

    name: str
    n_forget_patients: Count
    n_test_patients: Count
    original: GroupModelEvidence
    unlearned: GroupModelEvidence
    retrained: GroupRetrainedEvidence
    difference: float = Field(description="unlearned AUC minus the mean of the retrained ones")
    p: float | None
    p_adjusted: float | None
    reading: Reading


class AttributeEvidence(Document):
    """The groups of an attribute; those left out have no name and no count."""

    groups: list[GroupEvidence]
    n_left_out: Count


class SubgroupsEvidence(Document):
    """One-way tables by attribute."""

    attack: str
    min_cell: Count
    correction: str
    n_tests: Count
    level: float
    attributes: dict[str, AttributeEvidence]


class RiskAtEvidence(Document):
    """Forgotten patients whose p-value is at or below a level."""

    p: float
    expected: float = Field(description="if the model had never seen them")
    original: Count
    unlearned: Count
    retrained: list[Count]


class RetainedRiskEvidence(Document):
    """Patients who stay in training, flagged before and after; ``None`` where fewer than ``min_cell`` would be told."""

    patients: Count
    flagged_before: Count | None
    flagged_after: Count | None
    newly_flagged: Count | None
    no_longer_flagged: Count | None
    newly_flagged_retrained: list[Count | None] = Field(description="the same, retrained models in place of unlearned")


class PatientRiskEvidence(Document):
    """How risk is spread over the patients; who they are stands in a restricted file."""

    attack: str
    definition: str
    flag_level: float
    n_patients: Count
    n_outsiders: Count
    min_cell: Count
    reason: str | None = Field(description="why there is no distribution")
    known: list[RiskAtEvidence] = Field(description="because the model knows them well")
    marked: list[RiskAtEvidence] = Field(description="because the model treats them worse than others")
    retained: RetainedRiskEvidence
    file: str | None = Field(description="null where no ids are known")
    file_readers: str


class ControlAttackEvidence(Document):
    """An attack between two groups of which the answer is known."""

    label: str
    question: str
    model: Literal["original"]
    expected: float
    n_patients: tuple[Count, Count]
    auc: float | None
    low: float | None
    high: float | None
    as_expected: bool | None = Field(description="whether the interval holds the expected value")
    reason: str | None
    consequence: str


class PermutationEvidence(Document):
    """The headline AUC beside those of memberships that were dealt out at random among the patients."""

    value: float
    n_permutations: Count
    mean: float
    low: float = Field(description="2.5 % of the permutations lie below")
    high: float = Field(description="2.5 % of the permutations lie above")
    p: float


class PermutationsEvidence(Document):
    """Of two models."""

    original: PermutationEvidence
    unlearned: PermutationEvidence


class PositiveEvidence(Document):
    """The headline attack on the original, which saw the patients."""

    auc: float | None
    low: float | None
    high: float | None


class ControlAttacksEvidence(Document):
    """Attacks of which the answer is known beforehand."""

    level: float
    attacks: dict[str, ControlAttackEvidence]
    permutation: PermutationsEvidence
    ceiling: list[float | None] = Field(description="headline AUC of the retrained models, who never saw the patients")
    positive: PositiveEvidence


class RatesEvidence(Document):
    """Shares of people at the decision box's operating point, with exact intervals that hold together."""

    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    fpr_low: float
    fpr_high: float


class MeasuredEvidence(Document):
    """Of all models."""

    original: RatesEvidence
    unlearned: RatesEvidence
    retrained: list[RatesEvidence]


class CombinedEvidence(Document):
    """What follows from measured rates and declared figures."""

    precision: float | None
    precision_low: float | None
    precision_high: float | None
    exposed_subjects: float | None
    exposed_subjects_low: float | None
    exposed_subjects_high: float | None
    exposed_records: float | None
    exposed_records_low: float | None
    exposed_records_high: float | None


class CombinedModelsEvidence(Document):
    """Of all models."""

    original: CombinedEvidence
    unlearned: CombinedEvidence
    retrained: list[CombinedEvidence]


class DeclaredEvidence(Document):
    """What people declared, what was measured, what follows. Never one score."""

    prior: float | None
    subjects: Count | None
    records_per_subject: float | None
    sensitivity: str | None
    harm: str | None
    operating_point: str
    level: float
    measured: MeasuredEvidence
    combined: CombinedModelsEvidence | None
    reason: str | None = Field(description="why nothing was combined")


class ArraysEvidence(Document):
    """The side file from which every attack figure can be computed again."""

    file: str
    sha256: Sha256
    n_arrays: Count
    keys: str = Field(description="how arrays are named")


class ExposureEvidence(Document):
    """Forgotten patients by how well models trained with them are told from models trained without: the highest AUC of
    their records, over shadow models. Shares above each threshold.
    """

    thresholds: list[float]
    n_patients: Count
    n_in: Count = Field(description="shadow models a record that saw it")
    n_out: Count
    trained: list[float] | None
    unlearned: list[float] | None = Field(description="after the shadow models unlearned them")
    unlearned_worse: list[float] | None = Field(description="the same turned round: treated worse than if never seen")
    by_chance: list[float] | None = Field(description="if nothing leaked, at most")
    reason: str | None


class ForgettingQualityEvidence(Document):
    """The NeurIPS 2023 score, beside the score that retraining itself would have."""

    score: float | None
    interval: IntervalEvidence
    ceiling: float | None
    ceiling_range: list[float] | None
    score_at_ceiling: float | None
    shortfall: IntervalEvidence
    n_unlearned: Count
    n_retrained: Count
    n_half: Count
    n_undecided: Count
    definition: str
    reason: str | None


class ExposureGroupEvidence(Document):
    """Patients who were exposed before unlearning, or who were not; ``None`` where a small count would follow."""

    n_patients: Count | None
    n_exposed_after: Count | None
    rate: float | None
    interval: IntervalEvidence


class VulnerabilityEvidence(Document):
    """What unlearning did to exposed and to safe patients."""

    vulnerable: ExposureGroupEvidence
    protected: ExposureGroupEvidence
    n_patients: Count
    definition: str
    min_cell: Count


class ShadowsEvidence(Document):
    """What the shadow models say of single patients, in counts and shares."""

    exposure: ExposureEvidence
    forgetting_quality: ForgettingQualityEvidence | None
    vulnerability: VulnerabilityEvidence | None
