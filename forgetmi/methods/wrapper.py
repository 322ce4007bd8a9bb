"""What methods that wrap another have in common: which one, its options, and that it must be able to do the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method, method_problems
from forgetmi.methods.base import UnlearningJob, UnlearningMethod, check_job

NOT_MASKED = {"retrain": "retraining starts from no weight of the original; there is nothing to mask"}
"""The methods over which no mask can lie, and why."""


@dataclass(frozen=True)
class Wrapper:
    """Options of a method around another one.

    Attributes:
        inner: the wrapped method.
        options: its options.
    """

    inner: str
    options: Mapping[str, Any] = field(default_factory=dict)

    not_around: ClassVar[Mapping[str, str]] = {}
    """Name of each method that cannot be wrapped, to the reason."""

    def __post_init__(self) -> None:
        refused = [f"inner: {self.not_around[self.inner]}"] if self.inner in self.not_around else []
        if problems := self.problems() + refused + method_problems(self.inner, self.options):
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """What is wrong with the wrapper's own options."""
        return []

    def wrapped(self) -> UnlearningMethod:
        """The wrapped method."""
        return build_method(self.inner, self.options)

    def check(self, job: UnlearningJob) -> None:
        """The wrapped method must be able to do it."""
        check_job(self.wrapped(), job)
