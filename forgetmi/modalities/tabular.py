"""Tables' rows: standardised numbers with a missing mask, and categories with an unknown level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import noise_options

# What a cell says where there is no value; compared without case.
MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")


@dataclass(frozen=True)
class TabularNoise:
    """Gaussian noise on the numbers that are there: ``x + N(0, sd)`` on the standardised scale.

    Ours: Forget-MI (arXiv 2506.23145) defines noise for images and texts only. Categories and the missing mask stay
    as they are, so that a noisy record is still a possible one.

    Attributes:
        sd: in standard deviations of the training split. 0 is the identity.

    Raises:
        ConfigError: ``sd`` is negative or not finite.
    """

    kind: ClassVar[str] = "tabular"
    sd: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sd) and self.sd >= 0):
            raise ConfigError([f"sd must be finite and at least 0, got {self.sd}"])


class TabularModality:
    """Rows of named columns as one vector.

    Layout of an example, with N numeric columns in the order of their names: N standardised numbers (0, the mean,
    where missing), N missing flags (1 where missing), then for each categorical column one place a level and a last
    one for every level that training did not know. A missing category is zero in all of its places.

    Args:
        numeric: column to (mean, standard deviation) of the training split.
        categories: column to its known levels.
        clip: largest magnitude of a standardised number, so that one typing error does not rule a batch.
        missing: words that mean "no value", compared without case.
        noise: what :meth:`perturb` applies when a method names none.

    Raises:
        ConfigError: no column, a column of both kinds, a standard deviation that is not positive, a repeated level.
    """

    kind = "tabular"

    def __init__(
        self,
        numeric: Mapping[str, Sequence[float]],
        categories: Mapping[str, Sequence[str]],
        *,
        clip: float = 10.0,
        missing: Sequence[str] = MISSING_WORDS,
        noise: TabularNoise | None = None,
    ) -> None:
        problems = [f"column {name!r} is both numeric and categorical" for name in sorted({*numeric} & {*categories})]
        if not numeric and not categories:
            problems.append("a tabular modality needs at least one column")
        for name, statistics in numeric.items():
            if len(statistics) != 2 or not all(map(math.isfinite, statistics)) or statistics[1] <= 0:
                problems.append(f"column {name!r}: mean and a positive standard deviation are needed")
        problems += [f"column {n!r}: a level is repeated" for n, lv in categories.items() if len(set(lv)) < len(lv)]
        if not clip > 0:
            problems.append(f"clip must be positive, got {clip}")
        if problems:
            raise ConfigError(problems)
        self.numeric = {name: (float(numeric[name][0]), float(numeric[name][1])) for name in sorted(numeric)}
        self.categories = {name: tuple(categories[name]) for name in sorted(categories)}
        self.clip = clip
        self.missing = tuple(missing)
        self.features = 2 * len(self.numeric) + sum(len(levels) + 1 for levels in self.categories.values())
        self._noise = noise or TabularNoise()

    @classmethod
    def fit(
        cls,
        rows: Sequence[Mapping[str, Any]],
        *,
        categories: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        min_share: float = 0.05,
        min_count: int = 5,
        clip: float = 10.0,
        missing: Sequence[str] = MISSING_WORDS,
    ) -> TabularModality:
        """Columns, their statistics and levels from the rows of the training split.

        A column is numeric where each of its values is a number, unless it is named in ``categories``.

        Args:
            rows: column to value, of the training split only.
            categories: columns whose numbers are codes (sex 0/1).
            columns: which ones to use; by default every one that enough rows have.
            min_share: the least share of rows with a value, for columns that are not named.
            min_count: levels of fewer rows become the unknown level: a level of one patient would name that patient
                in the stored model.
            clip, missing: see the class.

        Raises:
            DataError: no row, no usable column, or one that is named and has no value.
        """
        words = {word.lower() for word in missing}
        found: dict[str, list[Any]] = {}
        for row in rows:
            for name, cell in row.items():
                if not _is_missing(cell, words):
                    found.setdefault(name, []).append(cell)
        if absent := [name for name in dict.fromkeys((*(columns or ()), *categories)) if name not in found]:
            raise DataError(
                f"tabular columns without a value in the training split: {', '.join(absent)}",
                fix="correct the names, or leave them out",
            )
        if columns is None:
            chosen = sorted(n for n, cells in found.items() if n in categories or len(cells) >= min_share * len(rows))
        else:
            chosen = [name for name in found if name in {*columns, *categories}]
        statistics: dict[str, tuple[float, float]] = {}
        levels: dict[str, tuple[str, ...]] = {}
        for name in chosen:
            numbers = None if name in categories else _numbers(found[name])
            if numbers is None:
                texts = [_level(cell) for cell in found[name]]
                counts = Counter(texts)
                levels[name] = tuple(sorted(text for text, n in counts.items() if n >= min_count))
            else:
                values = torch.tensor(numbers, dtype=torch.float64)
                sd = values.std(correction=0).item()
                statistics[name] = (values.mean().item(), sd if sd > 0 else 1.0)
        if not statistics and not levels:
            raise DataError(
                f"no tabular column has a value in {min_share:.0%} of the training split's {len(rows)} rows",
                fix="name the columns, or lower min_share",
            )
        return cls(statistics, levels, clip=clip, missing=missing)

    @property
    def default_noise(self) -> TabularNoise:
        """The noise that :meth:`perturb` applies when a method names none."""
        return self._noise

    def prepare(self, value: Any) -> Tensor:
        """A row as float32 [features].

        Args:
            value: column to number, text or ``None``. Columns that training did not use are left out; those that the
                row lacks are missing.

        Raises:
            DataError: no mapping, or text or an infinite number in a numeric column.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"a row was given as {type(value).__name__}", expected="a mapping of columns to values")
        words = {word.lower() for word in self.missing}
        numbers: list[float] = []
        absent: list[float] = []
        for name, (mean, sd) in self.numeric.items():
            cell = value.get(name)
            gone = _is_missing(cell, words)
            absent.append(float(gone))
            numbers.append(0.0 if gone else (_number(cell, name) - mean) / sd)
        example = numbers + absent
        for name, levels in self.categories.items():
            places = [0.0] * (len(levels) + 1)
            cell = value.get(name)
            if not _is_missing(cell, words):
                text = _level(cell)
                places[levels.index(text) if text in levels else len(levels)] = 1.0
            example += places
        vector = torch.tensor(example, dtype=torch.float64)
        return vector.clamp_(-self.clip, self.clip).to(torch.float32)

    def perturb(
        self,
        read: Callable[[], Any],
        example: Tensor,
        noise: TabularNoise | Mapping[str, Any] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """The prepared example with noise on its present numbers; see :class:`TabularNoise`."""
        options = noise_options(TabularNoise, noise, self._noise)
        n = len(self.numeric)
        if options.sd == 0 or n == 0:
            return example
        drawn = torch.empty(n).normal_(0.0, options.sd, generator=generator)
        noisy = example.clone()
        noisy[:n] += drawn * (1 - example[n : 2 * n])
        return noisy

    def blank(self) -> Tensor:
        """A row of which nothing is known: every number is flagged as missing."""
        return self.prepare({})

    def collate(self, examples: Sequence[Tensor]) -> Tensor:
        """[B, features]."""
        return torch.stack(list(examples))

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`; statistics and levels are part of the model."""
        return {
            "kind": self.kind,
            "numeric": {name: list(pair) for name, pair in self.numeric.items()},
            "categories": {name: list(levels) for name, levels in self.categories.items()},
            "clip": self.clip,
            "missing": list(self.missing),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TabularModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(config["numeric"], config["categories"], clip=config["clip"], missing=config["missing"])


def _is_missing(cell: Any, words: set[str]) -> bool:
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in words
    return bool(cell != cell)  # only NaN differs from itself


def _numbers(cells: Sequence[Any]) -> list[float] | None:
    """The cells as finite numbers, or ``None`` where one of them is something else."""
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _number(cell: Any, name: str) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise DataError(
            f"column {name!r} holds what is no finite number, but was numeric in the training split",
            fix="correct the cell, or name the column under categories and train again",
            private=[repr(cell)],
        )
    return number


def _level(cell: Any) -> str:
    """A level's name: ``1``, ``1.0``, ``"1"`` and ``"1.0"`` are one level."""
    text = str(cell).strip()
    whole = text.removesuffix(".0")
    return whole if whole.lstrip("-").isdigit() else text
