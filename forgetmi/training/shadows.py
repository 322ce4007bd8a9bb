"""Shadow models: who is in which, what one leaves behind, and how their scores are gathered.

A shadow model is trained by the original's recipe with half of the target patients in its training set and the other
half out of it. What its scores say of a record that was in, and of one that was out, is what LiRA and RMIA compare
the attacked model with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from forgetmi.errors import AuditError, ConfigError
from forgetmi.files import atomic_write
from forgetmi.training.seeds import derive_seed, numpy_generator

DESIGN_VERSION = 1  # raised when the same seed comes to draw other patients, or shadows to be trained differently

Bools = NDArray[np.bool_]


def shadow_design(patients: Sequence[str], n_shadows: int, seed: int) -> Bools:
    """Which patient is in which shadow model's training set.

    Shadows come in pairs: a fair coin for each patient says whether they are in the first one, and the second has the
    others. So every patient is in exactly K/2 shadows, every shadow has about half of the patients, and the coins of
    one shadow are independent, as an audit of one run asks. Drawn by patient: all records of one are in, or all are
    out. (Coins that all fall alike are tossed again: neither twin may have nobody.)

    Args:
        patients: n target patients (forget and test), each once, in any order: a patient's column does not depend on
            where it stands.
        n_shadows: K, even.
        seed: of the draw.

    Returns:
        [K, n], true where the patient of that column is in.

    Raises:
        ConfigError: K is odd or below 2, there are fewer than 2 patients, or one stands there twice.
    """
    problems = check_count(n_shadows)
    if not n_shadows:
        problems.append("there are no shadow models to draw for")
    if len(patients) < 2:
        problems.append(f"{len(patients)} target patients: at least 2 are needed, to have one in and one out")
    if len(set(patients)) != len(patients):
        problems.append(f"{len(patients) - len(set(patients))} target patients stand there more than once")
    if problems:
        raise ConfigError(problems)
    columns = np.argsort(np.asarray(patients, dtype=np.str_))  # coins go by id, wherever a patient stands
    design = np.zeros((n_shadows, len(patients)), dtype=np.bool_)
    for pair in range(0, n_shadows, 2):
        rng = numpy_generator(seed, "shadow design", DESIGN_VERSION, pair)
        coins = rng.integers(2, size=len(patients), dtype=np.uint8).astype(np.bool_)
        while coins.all() or not coins.any():
            coins = rng.integers(2, size=len(patients), dtype=np.uint8).astype(np.bool_)
        design[pair, columns] = coins
    design[1::2] = ~design[::2]
    return design


def check_count(n_shadows: int) -> list[str]:
    """What is wrong with a number of shadow models; 0 is none of them."""
    if n_shadows < 0 or n_shadows % 2:
        return [
            f"shadows must be an even number, not {n_shadows}: every patient is in half of the shadow models, exactly"
        ]
    return []


def shadow_seed(seed: int, index: int) -> int:
    """The seed of a shadow model; with the same run's seed no other model has it."""
    return derive_seed(seed, "shadow", index) % 2**32


@dataclass(frozen=True)
class ShadowScores:
    """What is kept of a shadow model when it has been scored; its weights are not.

    Attributes:
        index: which shadow, from 0.
        mark: hash of everything that its scores depend on.
        signals: part to signal name to array [n, ...], in the order of the part's records.
        seen: part to [n]: whether the shadow was trained on the record (and, of ``unlearned_shadows``, then unlearned
            it).
        made_with: package versions.
        seconds: what it cost.
    """

    index: int
    mark: str
    signals: Mapping[str, Mapping[str, NDArray[Any]]]
    seen: Mapping[str, Bools]
    made_with: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def write(self, folder: Path) -> Path:
        """Write them as one file, atomically; no id is in it, records are known by their order."""
        facts = {"index": self.index, "mark": self.mark, "made_with": dict(self.made_with), "seconds": self.seconds}
        arrays: dict[str, NDArray[Any]] = {"facts": np.array(json.dumps(facts, sort_keys=True))}
        for part, signals in self.signals.items():
            arrays |= {f"{part}/{name}": values for name, values in signals.items()}
            arrays[f"{part}/seen"] = self.seen[part]
        path = score_file(folder, self.index)
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub: no keyword may be taken for allow_pickle
        return path

    @classmethod
    def read(cls, folder: Path, index: int) -> ShadowScores | None:
        """What stands in the folder; ``None`` where there is nothing, or something that cannot be read: it is made
        again.
        """
        try:
            with np.load(score_file(folder, index), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(str(arrays.pop("facts")))
            signals: dict[str, dict[str, NDArray[Any]]] = {}
            for name, values in arrays.items():
                part, _, signal = name.partition("/")
                signals.setdefault(part, {})[signal] = values
            seen = {part: found.pop("seen").astype(np.bool_) for part, found in signals.items()}
            return cls(int(facts["index"]), facts["mark"], signals, seen, facts["made_with"], facts["seconds"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None


def score_file(folder: Path, index: int) -> Path:
    """Where a shadow's scores stand."""
    return folder / f"shadow-{index:04d}.npz"


def gather(folder: Path, n_shadows: int, mark: str, *, command: str) -> dict[str, dict[str, NDArray[Any]]]:
    """The scores of all K shadow models.

    Args:
        folder: holds them.
        n_shadows: K.
        mark: what each of them must depend on.
        command: makes what is missing, for the message.

    Returns:
        Part to signal name to [K, n, ...], and ``"seen"`` [K, n].

    Raises:
        AuditError: some are missing, or they are not of one kind: other settings or data, another version of a
            package, other records. Nothing is computed from part of them.
    """
    found = [ShadowScores.read(folder, index) for index in range(n_shadows)]
    if missing := [index for index, scores in enumerate(found) if scores is None]:
        raise AuditError(
            f"{len(missing)} of {n_shadows} shadow models are missing: {_listed(missing)}",
            where=str(folder),
            fix=f"{command} makes them, and keeps those that are there",
        )
    there = [scores for scores in found if scores is not None]
    delete = "delete these files and make them again, all with the same version"
    other = [index for index, scores in enumerate(there) if scores.mark != mark or scores.index != index]
    if other:
        raise AuditError(
            f"{len(other)} of {n_shadows} shadow models are of other settings, data or code: {_listed(other)}",
            where=str(folder),
            fix=delete,
        )
    versions: dict[str, list[int]] = {}
    for scores in there:
        named = ", ".join(f"{name} {version}" for name, version in sorted(scores.made_with.items()))
        versions.setdefault(named, []).append(scores.index)
    if len(versions) > 1:
        raise AuditError(
            "shadow models were made by different versions: "
            + "; ".join(f"{name}: {_listed(indices)}" for name, indices in versions.items()),
            where=str(folder),
            fix=delete,
        )
    shapes = [
        {f"{part}/{name}": values.shape for part, signals in s.signals.items() for name, values in signals.items()}
        for s in there
    ]
    if unlike := [index for index, shape in enumerate(shapes) if shape != shapes[0]]:
        raise AuditError(
            f"shadow models have scores of other records than the first one: {_listed(unlike)}",
            where=str(folder),
            fix=delete,
        )
    return {
        part: {
            **{name: np.stack([scores.signals[part][name] for scores in there]) for name in signals},
            "seen": np.stack([scores.seen[part] for scores in there]),
        }
        for part, signals in there[0].signals.items()
    }


def _listed(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:12]))
    return shown if len(indices) <= 12 else f"{shown} and {len(indices) - 12} more"
