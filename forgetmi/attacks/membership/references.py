"""What attacks that compare with reference models share: their options, which models are used, and which arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from forgetmi.attacks.membership.result import (
    AttackOptions,
    AttackResult,
    PartSignals,
    check_attack_options,
    check_disjoint,
)
from forgetmi.attacks.membership.scored import scored_result
from forgetmi.errors import AuditError, did_you_mean
from forgetmi.metrics.roc import Bools, Floats, Ints


@dataclass(frozen=True)
class Compared:
    """A signal of forget records, then test records, under the attacked model and under reference models of one kind.

    Attributes:
        kind: of the reference models.
        target: under the attacked model [n, q], q queries a record.
        references: under K reference models [K, n, q].
        seen: whether reference k saw the record [K, n].
    """

    kind: str
    target: Floats
    references: Floats
    seen: Bools


@dataclass(frozen=True)
class Scored:
    """What an attack found: its scores, and how.

    Attributes:
        scores: [n_forget + n_test], higher = member, forget records first.
        definition: what exactly was done.
        used: options whose default was resolved (kind of reference models, mode), for the record.
        called: decisions of the attack's own rule [n], or why there can be none; ``None``: a threshold is fitted.
        notes: what the reader must know.
    """

    scores: Floats
    definition: str
    used: Mapping[str, Any]
    called: Bools | str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ComparingAttack(AttackOptions):
    """Base of the attacks that compare with reference models or with a population.

    Attributes:
        reference_models: kind of reference models; empty: the first of :attr:`references` that is there.
    """

    name: ClassVar[str]
    references: ClassVar[tuple[str, ...]] = ("shadows", "retrained")

    reference_models: str = ""

    def __post_init__(self) -> None:
        problems = self.problems()
        if self.reference_models and self.reference_models not in self.references:
            problems.append(unknown("reference_models", self.reference_models, self.references))
        check_attack_options(self.folds, self.fprs, self.n_resamples, self.level, problems)

    @abstractmethod
    def score(self, forget: PartSignals, test: PartSignals, population: PartSignals | None) -> Scored:
        """Scores of forget records, then test records."""

    def result(
        self,
        forget: PartSignals,
        test: PartSignals,
        rng: np.random.Generator,
        *,
        retain: PartSignals | None = None,
        population: PartSignals | None = None,
    ) -> AttackResult:
        """Attack one model.

        Args:
            forget: members, with :attr:`signals`, and with reference models of one of the kinds :attr:`references`.
            test: non-members, other patients; the same signals under the same reference models.
            rng: for folds and intervals.
            retain: not used.
            population: records of other patients that nobody trained on; required where :attr:`needs_population`.

        Raises:
            AuditError: reference models, population or signal are missing, too few, or do not fit; a patient stands in
                two parts.
        """
        parts = {"forget": forget, "test": test}
        if self.needs_population:
            if population is None:
                raise AuditError(
                    f"attack {self.name!r} compares with records that nobody trained on, and there are none",
                    fix="pass `population`: in an audit these are the validation records of the split",
                )
            parts["population"] = population
        check_disjoint(parts)
        found = self.score(forget, test, population if self.needs_population else None)
        return scored_result(
            found.scores,
            forget,
            test,
            rng,
            name=self.name,
            definition=found.definition,
            options={**asdict(self), "fprs": list(self.fprs), **found.used},
            folds=self.folds,
            fprs=self.fprs,
            n_resamples=self.n_resamples,
            level=self.level,
            notes=found.notes,
            called=found.called,
        )

    def compared(self, forget: PartSignals, test: PartSignals, signal: str) -> Compared:
        """A signal of both parts under the attacked model and under reference models.

        Raises:
            AuditError: there are none of the kinds that the attack can use, or the parts were not put to the same ones.
        """
        there = [kind for kind in self.references if kind in forget.references and kind in test.references]
        kind = self.reference_models or (there or self.references)[0]
        (ours, ours_seen), (others, others_seen) = (part.under_references(kind, signal) for part in (forget, test))
        aims = [part.queries(signal) for part in (forget, test)]
        if ours.shape[::2] != others.shape[::2] or not {aims[0].shape[1], aims[1].shape[1]} == {ours.shape[2]}:
            raise AuditError(
                f"signal {signal!r}: forget {aims[0].shape} and test {aims[1].shape} under the attacked model, "
                f"{ours.shape} and {others.shape} under {kind}",
                expected="the same reference models in the same order for both parts, and as many queries everywhere",
            )
        return Compared(
            kind,
            np.concatenate(aims),
            np.concatenate([ours, others], axis=1),
            np.concatenate([ours_seen, others_seen], axis=1),
        )


def unknown(option: str, value: str, choices: tuple[str, ...]) -> str:
    """The problem of an option that is none of its choices."""
    return f"unknown {option} {value!r}. {did_you_mean(value, choices)}"


def one_query(values: Floats, attack: str) -> Floats:
    """Without the axis of queries, for attacks that take one.

    Raises:
        AuditError: there are more.
    """
    if values.shape[-1] != 1:
        raise AuditError(f"attack {attack!r} takes one query a record, and there are {values.shape[-1]}")
    return values[..., 0]


def check_enough(count: Ints, needed: int, what: str, fix: str) -> None:
    """Raise :class:`AuditError` where a record has fewer references of a kind than are needed."""
    short = int((np.asarray(count) < needed).sum())
    if short:
        raise AuditError(
            f"{short} of {np.size(count)} records have fewer than {needed} reference model{'s' * (needed > 1)} {what}",
            expected=f"at least {needed} for every record; the fewest are {int(np.min(count))}",
            fix=fix,
        )
