"""What every published document is built of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0.0)]


class Document(BaseModel):
    """Base of everything here: no unknown key, no NaN, no Infinity, no change after the fact."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping under the published key names."""
        return self.model_dump(mode="json", by_alias=True)


class IntervalEvidence(Document):
    """A confidence interval whose unit is the patient, or the reason why there is none."""

    low: float | None
    high: float | None
    level: float
    method: str
    n_patients: Count
    reason: str | None
    n_undefined: Count
