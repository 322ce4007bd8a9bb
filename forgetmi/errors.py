"""Errors for the person who must fix them: what, where, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class ForgetMIError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: what went wrong, in one sentence, without any patient identifier.
        where: the file and row, the config key or the object that it concerns.
        expected: what would have been right.
        fix: what the reader can do now.
        private: details that may name patients. They are shown to the person at the terminal (``str(error)``) and
            left out of :attr:`public`, which is what goes into log files and reports.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
        private: Sequence[str] = (),
    ) -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        self.private = tuple(private)
        super().__init__(what)

    @property
    def public(self) -> str:
        """The message without private details: fit for logs and reports."""
        lines = [self.what]
        for name, text in (("where", self.where), ("expected", self.expected), ("what to do", self.fix)):
            if text:
                lines.append(f"  {name}: {text}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.public, *(f"  - {line}" for line in self.private)])

    def __reduce__(self) -> tuple[object, ...]:
        # An exception with keyword-only arguments does not survive a process pool without this.
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[ForgetMIError], state: dict[str, object]) -> ForgetMIError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (error.what,)
    return error


class DataError(ForgetMIError):
    """A dataset, a file of it, or a record is not what its format says."""


class RequestError(ForgetMIError):
    """A forget request cannot be carried out as it stands."""


class ConfigError(ForgetMIError):
    """One or more settings are wrong. ``problems`` lists all of them."""

    def __init__(self, problems: Sequence[str], *, where: str | None = None, fix: str | None = None) -> None:
        self.problems = tuple(problems)
        count = "1 setting is" if len(self.problems) == 1 else f"{len(self.problems)} settings are"
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{count} wrong:{listed}", where=where, fix=fix)


class ModelError(ForgetMIError):
    """A model cannot be built, read or written, or does not offer what a method needs."""


class MethodError(ForgetMIError):
    """An unlearning method was given a job that it cannot do. It says why."""


class TrainingError(ForgetMIError):
    """Training cannot go on: a diverged loss, a checkpoint of another run."""


class AuditError(ForgetMIError):
    """A privacy figure cannot be computed as asked. It is never replaced by a default."""


class MissingDependencyError(ForgetMIError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs a package that is not installed.", fix=f"pip install 'forgetmi[{extra}]'")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A sentence that names the closest option and lists all of them.

    >>> did_you_mean("forget_im", ["forget_mi", "retrain"])
    "Did you mean 'forget_mi'? Available: forget_mi, retrain."
    """
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Available: {', '.join(known) or 'none'}."


def unmet(checks: Mapping[str, bool]) -> list[str]:
    """Of messages and the conditions that they ask for, the messages whose condition does not hold."""
    return [message for message, holds in checks.items() if not holds]
