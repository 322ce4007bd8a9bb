"""How often the exposure audit of a file of signals is right: false findings, and power at its stated limit.

    python benchmarks/signals_rates.py [--quick] [--files N] [--results FOLDER]

Each audit is of a made-up file, read as a user's would be. *Without leakage*: logits of three classes of 40 members and
60 outsiders, with one to three records each that resemble each other; all are drawn alike, so that whatever is found is
false. Three attacks look at them. *At the limit*: one record each, scores of members higher by just so much that the
true AUC is the limit that an audit of this size states (found in 8 of 10), and one attack.

Goals: at most 5 % false findings; at least 80 % found. The exit status is 1 where an exact 95 % interval lies beyond
its goal.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from forgetmi.audit.exposure import build_exposure
from forgetmi.audit.exposure_rule import ExposureOptions
from forgetmi.audit.signals_file import read_signals
from forgetmi.metrics.intervals import clopper_pearson
from forgetmi.metrics.power import detectable_auc

MEMBERS, OUTSIDERS, CLASSES = 40, 60, 3
GOALS = {"false": 0.05, "found": 0.8}
# resamples stand behind intervals only, which play no part in the outcome without retrained models
SETTINGS: dict[str, Any] = {"n_permutations": 1999, "n_bootstrap": 200}


def without_leakage(rng: np.random.Generator) -> pd.DataFrame:
    """People with one to three records, members and outsiders drawn alike."""
    people = MEMBERS + OUTSIDERS
    person = np.repeat(np.arange(people), rng.integers(1, 4, people))
    logits = rng.normal(size=(people, CLASSES))[person] + rng.normal(0.0, 0.5, (person.size, CLASSES))
    columns = {f"logit_{k}": logits[:, k] for k in range(CLASSES)}
    return _file(person, label=rng.integers(0, CLASSES, people)[person], **columns)


def at_the_limit(rng: np.random.Generator) -> pd.DataFrame:
    """Normal scores whose true AUC is the stated limit of one attack (two looks)."""
    person = np.arange(MEMBERS + OUTSIDERS)
    shift = np.sqrt(2.0) * stats.norm.ppf(stated_limit())
    return _file(person, phi=rng.normal(size=person.size) + shift * (person < MEMBERS))


def stated_limit() -> float:
    """The AUC that an audit of this size with one attack, hence two looks, says it finds in 8 of 10 cases."""
    found = detectable_auc(MEMBERS, OUTSIDERS, level=1.0 - ExposureOptions().alpha / 2.0)
    if found is None:
        raise RuntimeError("an audit of this size states no limit")
    return found


def _file(person: np.ndarray, **columns: Any) -> pd.DataFrame:
    part = np.where(person < MEMBERS, "member", "nonmember")
    return pd.DataFrame({"record": np.arange(person.size), "patient": person, "part": part, **columns})


def outcomes(make: Callable[[np.random.Generator], pd.DataFrame], attacks: tuple[str, ...], n: int) -> dict[str, Any]:
    """What ``n`` audits say."""
    options, found, asked = ExposureOptions(attacks=attacks, **SETTINGS), Counter[str](), set[tuple[str, ...]]()
    limit = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signals.csv"
        for number in range(n):
            make(np.random.default_rng([number, len(attacks)])).to_csv(path, index=False)
            document = build_exposure(read_signals(path), options, number)
            found[document["decision"]["outcome"]] += 1
            asked.add(tuple(document["attacks"]))
            limit = document["decision"]["detectable_auc"]
    (looked,) = asked
    interval = clopper_pearson(found["exposed"], n)
    return {
        "files": n,
        "attacks": list(looked),
        "outcomes": {name: found[name] for name in ("exposed", "none_found", "cannot_tell")},
        "exposed": found["exposed"] / n,
        "low": interval.low,
        "high": interval.high,
        "stated_limit": limit,
    }


def page(results: dict[str, Any]) -> str:
    """The results as a page to read."""
    lines = [
        "# The exposure audit: how often it is right",
        "",
        f"{MEMBERS} members and {OUTSIDERS} outsiders a file. *Without leakage* all are drawn alike, with 1 to 3 "
        "records each; *at the limit* the true AUC is the one that the audit states as found in 8 of 10 cases.",
        "",
        "| files | attacks | number | exposed | none found | cannot tell | exposed (95 % interval) | stated limit |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, row in results["rows"].items():
        counts = " | ".join(str(count) for count in row["outcomes"].values())
        share = f"{100 * row['exposed']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        attacks, limit = ", ".join(row["attacks"]), row["stated_limit"]
        lines.append(f"| {name} | {attacks} | {row['files']} | {counts} | {share} | {limit:.3f} |")
    lines += [
        "",
        f"Goals: at most {100 * GOALS['false']:g} % without leakage, at least {100 * GOALS['found']:g} % at the limit. "
        f"{results['machine']}; {results['seconds']:.0f} s of processor time.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 1 where a goal is missed beyond chance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="40 and 20 files; writes only with --results")
    parser.add_argument("--files", type=int, default=2000, help="without leakage; half as many at the limit")
    parser.add_argument("--results", type=Path, help="folder for signals_rates.json and signals_rates.md")
    given = parser.parse_args(arguments)
    n, started = 40 if given.quick else given.files, time.process_time()
    if n < 2:
        parser.error("--files must be at least 2")
    rows = {
        "without leakage": outcomes(without_leakage, (), n),
        "at the limit": outcomes(at_the_limit, ("loss",), n // 2),
    }
    results = {
        "options": SETTINGS,
        "rows": rows,
        "machine": f"Python {platform.python_version()}, numpy {np.__version__}",
        "seconds": time.process_time() - started,
    }
    text = page(results)
    print(text)
    folder = given.results or (None if given.quick else Path(__file__).parent / "results")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "signals_rates.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (folder / "signals_rates.md").write_text(text, encoding="utf-8")
    false, found = rows["without leakage"], rows["at the limit"]
    return 0 if false["low"] <= GOALS["false"] and found["high"] >= GOALS["found"] else 1


if __name__ == "__main__":
    sys.exit(main())
