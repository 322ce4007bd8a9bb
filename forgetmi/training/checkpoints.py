"""Checkpoints of a fit: written atomically, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from forgetmi.errors import TrainingError
from forgetmi.files import atomic_write
from forgetmi.training.options import FitOptions


class CheckpointFile:
    """One fit's checkpoint.

    Args:
        path: the file.
        options, seed, start, identity: what makes a fit the same fit; a checkpoint of another one is refused.
            ``start`` is a digest of the weights that it started from, ``identity`` any text.
    """

    def __init__(self, path: Path, *, options: FitOptions, seed: int, start: str, identity: str = "") -> None:
        self.path = path
        described = json.dumps([asdict(options), seed, start, identity], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        with atomic_write(self.path) as file:
            try:
                torch.save({**state, "fingerprint": self.fingerprint}, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # a full disk; torch's own words would not say so
                    raise error.__context__ from error
                raise

    def load(self) -> dict[str, Any] | None:
        """The state, or ``None`` where there is none.

        Raises:
            TrainingError: the file is damaged, or belongs to a fit with other options, seed, records or first weights.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            fingerprint = dict(state)["fingerprint"]
        except Exception as error:
            raise TrainingError(
                f"the checkpoint {self.path.name} cannot be read ({type(error).__name__})",
                where=str(self.path),
                fix="delete it, or start again without --resume",
            ) from error
        if fingerprint != self.fingerprint:
            raise TrainingError(
                f"the checkpoint {self.path.name} is of another run: other options, records, weights or another seed",
                where=str(self.path),
                fix="resume with the config that started it, or start again without --resume",
            )
        return state
