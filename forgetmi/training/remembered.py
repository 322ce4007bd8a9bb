"""Several things that a fit keeps from step to step, as one."""

from __future__ import annotations

from typing import Any

from forgetmi.training.trainer import Remembered


class RememberedTogether:
    """Checkpoints hold what each of them keeps, by name."""

    def __init__(self, **kept: Remembered) -> None:
        self.kept = kept

    def state_dict(self) -> dict[str, Any]:
        """Name to state."""
        return {name: one.state_dict() for name, one in self.kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        for name, one in self.kept.items():
            one.load_state_dict(state[name])
