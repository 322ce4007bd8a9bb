"""Values that other people's code computed on fixed arrays; tests skip where they are not beside the repository."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "membership"


@cache
def arrays(name):
    """The arrays of a file, without its ending."""
    if not FOLDER.is_dir():
        pytest.skip(f"no reference values beside the repository ({FOLDER.parent.name}/{FOLDER.name})")
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)
