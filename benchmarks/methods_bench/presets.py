"""The settings that the benchmark's tuning chose, as presets of the package.

python benchmarks/methods_bench/presets.py     # results/methods.json -> forgetmi/methods/presets.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "methods.json"
SIZE = "0.1"
PRESETS = Path(__file__).parents[2] / "forgetmi" / "methods" / "presets.json"


def presets_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Data set to method to options: those of the forget size that is measured everywhere; what failed has none."""
    found: dict[str, dict[str, Any]] = {}
    for dataset, sizes in document["tuned"].items():
        methods = sizes[SIZE]
        found[dataset] = {
            name: cell["options"]
            for name, cell in sorted(methods.items())
            if cell["status"] == "done" and cell["options"]
        }
    return found


if __name__ == "__main__":
    shipped = json.loads(PRESETS.read_text(encoding="utf-8"))  # those of published recipes stay
    chosen = {**shipped, **presets_of(json.loads(RESULTS.read_text(encoding="utf-8")))}
    PRESETS.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
