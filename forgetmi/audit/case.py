"""What only people know of a case. It is shown as entered, and what is left out is shown as "not declared"."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from forgetmi.audit.document import Document

Regime = Literal["gdpr_17", "uk_gdpr_17", "hipaa", "consent_withdrawal", "research_protocol", "other"]
ReleaseType = Literal["labels", "probabilities", "weights"]


class Case(Document):
    """Declared by people; nothing has a default. No patient's identifier belongs here."""

    reference: str | None = Field(default=None, description="the office's file number; never a patient's id")
    model_purpose: str | None = None
    regime: Regime | None = Field(default=None, description="under which the request was made, as its user chose")
    legal_basis: str | None = Field(default=None, description="in words, such as 'withdrawn research consent, form 7'")
    controller: str | None = None
    processor: str | None = None
    dpia_id: str | None = Field(default=None, description="of the data protection impact assessment")
    dpo_advice: str | None = Field(default=None, description="what the data protection officer advised")
    recipients: str | None = Field(default=None, description="who gets the model")
    release_type: ReleaseType | None = Field(default=None, description="what the recipients see of the model")
    release: str | None = Field(default=None, description="how it is handed on, in words")
    reviewer: str | None = None
    expiry: Annotated[date, Field(strict=False)] | None = Field(
        default=None, description="after this day the audit is not to be relied on"
    )
    attacker_knowledge: str | None = Field(default=None, description="what an attacker may be assumed to hold and know")
    prior: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None, description="pi: share of members among the people whom an attacker would ask about"
    )
    subjects: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="how many people an attacker could ask about"
    )
    records_per_subject: Annotated[float, Field(gt=0.0)] | None = None
    sensitivity: str | None = Field(default=None, description="what membership alone would tell of a person")
    harm: str | None = Field(default=None, description="what could follow for the person")

    @model_validator(mode="before")
    @classmethod
    def _no_legal_judgement(cls, values: Any) -> Any:
        texts = [item for item in values.values() if isinstance(item, str)] if isinstance(values, dict) else []
        if any("compliant" in text.lower() for text in texts):
            raise ValueError(
                "the report makes no legal judgement and does not print the word 'compliant': say what was assessed, "
                "by whom and when"
            )
        return values
