"""Audits side by side: which of several unlearned models passes, and what tells them apart.

Only audits that answer the same question are put into one table: same request, same data and parts, same options, same
definitions of the attacks. Others are kept apart, and what differs is said. Runs are sorted by verdict, a destroyed
model (over-forgotten or useless) last among its equals; there is no score that could rank it first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import forgetmi
from forgetmi.audit.arrays import load_arrays
from forgetmi.audit.schema import validate_document
from forgetmi.errors import AuditError, ConfigError
from forgetmi.metrics.intervals import Interval, paired_difference_interval
from forgetmi.metrics.roc import Statistic, auc_statistic, evaluate, mean_statistic

SCHEMA = "forgetmi.compare/1"
_ORDER = {"pass": 0, "inconclusive": 1, "fail": 2}
_FLAGS = {
    "remembered": "still remembered",
    "over_forgotten": "over-forgotten: recognisable, because treated worse than others",
    "utility_lost": "usefulness lost",
}


@dataclass(frozen=True)
class Audited:
    """A run's documents.

    Attributes:
        name: of the folder, told apart from other folders of that name.
        folder: the run's.
        run, evidence: valid documents.
    """

    name: str
    folder: Path
    run: dict[str, Any]
    evidence: dict[str, Any]

    def question(self) -> dict[str, Any]:
        """What two audits must have in common to be compared, as one flat mapping."""
        run, evidence = self.run, self.evidence
        flat: dict[str, Any] = {
            "site's key": run["key_fingerprint"],
            "request": run["request"]["digest"],
            "level of the request": run["request"]["level"],
            "modalities of the request": run["request"]["modalities"],
            "data": run["data"]["fingerprint"],
            "task": evidence["task"],
        }
        flat |= {f"part {name}": part for name, part in evidence["parts"].items()}
        flat |= {f"option {name}": value for name, value in evidence["options"].items()}
        flat |= {f"definition of {name}": attack["definition"] for name, attack in evidence["attacks"].items()}
        flat |= {f"number of {kind}": n for kind, n in evidence["references"].items() if kind != "retrained"}
        return flat


def read_runs(folders: Sequence[Path]) -> list[Audited]:
    """The documents of several run folders.

    Raises:
        ConfigError: fewer than two folders, or one of them twice.
        AuditError: a document is missing, cannot be read or is not valid.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) < 2 or len(set(resolved)) != len(resolved):
        raise ConfigError(["at least two different run folders are needed"], fix="forgetmi compare runs/a runs/b")
    return [
        Audited(name, folder, _document(folder, "run"), _document(folder, "evidence"))
        for name, folder in zip(_names(resolved), resolved, strict=True)
    ]


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """The document of schema ``forgetmi.compare/1``, checked against it.

    Args:
        folders: of runs that were audited.

    Raises:
        ConfigError: fewer than two folders, or one of them twice.
        AuditError: a document is missing or not valid, or no two runs can be compared.
    """
    runs = read_runs(folders)
    groups: dict[str, list[Audited]] = {}
    for one in runs:
        groups.setdefault(json.dumps(one.question(), sort_keys=True), []).append(one)
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    apart = [
        {
            "runs": [one.name for one in group],
            "compared_with": [one.name for one in ordered[0]],
            "differs": differences(ordered[0][0].question(), group[0].question()),
        }
        for group in ordered[1:]
    ]
    if len(ordered[0]) < 2:
        listed = [f"{', '.join(one['runs'])} and {ordered[0][0].name}: {'; '.join(one['differs'])}" for one in apart]
        raise AuditError(
            "no two of these runs can be compared: their audits do not answer the same question\n  - "
            + "\n  - ".join(listed),
            expected="the same request, data, options of the audit and definitions of its attacks",
            fix="audit them again with the same options: forgetmi audit --run FOLDER audit.KEY=VALUE",
        )
    document = {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "forgetmi": forgetmi.__version__,
        "groups": [_group(group) for group in ordered if len(group) > 1],
        "alone": [_entry(group[0]) for group in ordered if len(group) == 1],
        "apart": apart,
    }
    return validate_document(document, "compare")


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In what a second audit's question differs from a first one's. Hashes are not shown: that they differ says all."""
    found = []
    if first["site's key"] != second["site's key"]:
        found.append("the site's keys differ, so that requests cannot be told alike")
    for name in dict.fromkeys([*first, *second]):
        if name == "site's key" or (name in first and name in second and first[name] == second[name]):
            continue
        if name in ("request", "data") or name.startswith("definition"):
            found.append(f"{name} differs" if name in first and name in second else f"{name} is known of one only")
        else:
            found.append(f"{name}: {_short(second.get(name))} instead of {_short(first.get(name))}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _group(group: Sequence[Audited]) -> dict[str, Any]:
    entries = {one.name: _entry(one) for one in group}
    place = {one.name: number for number, one in enumerate(group)}
    names = sorted(entries, key=lambda n: (_ORDER[entries[n]["decision"]], entries[n]["destroyed"], place[n]))
    by_name = {one.name: one for one in group}
    paired, reason = _paired([by_name[name] for name in names])
    first = group[0]
    return {
        "question": {
            "request": first.run["request"]["digest"],
            "level": first.run["request"]["level"],
            "data": first.run["data"]["name"],
            "forgotten_patients": first.evidence["parts"]["forget"]["patients"],
            "test_patients": first.evidence["parts"]["test"]["patients"],
            "headline": first.evidence["options"]["headline"],
            "attacks": list(first.evidence["options"]["attacks"]),
        },
        "runs": [entries[name] for name in names],
        "paired": paired,
        "not_paired": reason,
    }


def _entry(one: Audited) -> dict[str, Any]:
    evidence = one.evidence
    findings = evidence["verdict"]["findings"]
    meanings = dict.fromkeys(finding["meaning"] for finding in findings)
    doubted = any(f["criterion"] == "test_auc" and f["meaning"] == "not_judged" for f in findings)
    flags = [_FLAGS[meaning] for meaning in meanings if meaning in _FLAGS]
    flags += ["perhaps less useful: too few test patients to say"] if doubted else []
    keys = ("label", "kind", "level", "unlearned", "retrained_low", "retrained_high", "unlearned_position", "meaning")
    return {
        "name": one.name,
        "method": one.run["method"]["name"],
        "decision": evidence["verdict"]["decision"],
        "summary": evidence["verdict"]["summary"],
        "flags": flags,
        "destroyed": doubted or bool({"over_forgotten", "utility_lost"} & set(meanings)),
        "criteria": {name: {key: criterion[key] for key in keys} for name, criterion in evidence["criteria"].items()},
        "patients": evidence["people"]["patients"],
        "known": evidence["people"]["known"]["unlearned"],
        "marked": evidence["people"]["marked"]["unlearned"],
        "unlearned_seconds": evidence["time"]["unlearned_seconds"],
        "share_of_retraining": evidence["time"]["share_of_retraining"],
        "n_retrained": len(evidence["models"]["retrained"]),
        "cautions": len(evidence["verdict"]["cautions"]),
        "weights_sha256": evidence["models"]["unlearned"]["weights_sha256"],
    }


def _paired(group: Sequence[Audited]) -> tuple[list[dict[str, Any]], str | None]:
    """Each run against the first one, on the same resamples of patients; or why not."""
    try:
        loaded = [load_arrays(one.folder, one.evidence) for one in group]
    except AuditError as error:
        return [], f"not paired: {error.what}"
    headline = group[0].evidence["options"]["headline"]
    shared = [f"{headline}/member", f"{headline}/patient"]
    if not all(np.array_equal(arrays[key], loaded[0][key]) for arrays in loaded for key in shared):
        return [], "not paired: the runs scored their records in another order"
    found = []
    for one, arrays in zip(group[1:], loaded[1:], strict=True):
        found.append(_auc_difference(group[0], one, loaded[0], arrays, headline))
        found.append(_loss_difference(group[0], one, loaded[0], arrays, headline))
    return found, None


Arrays = Mapping[str, NDArray[Any]]


def _auc_difference(first: Audited, second: Audited, a: Arrays, b: Arrays, headline: str) -> dict[str, Any]:
    member, patient = a[f"{headline}/member"].astype(np.bool_), a[f"{headline}/patient"]
    statistics = [auc_statistic(arrays[f"{headline}/unlearned/scores"], member) for arrays in (a, b)]
    return _difference(first, second, f"{headline}_auc", statistics, patient, member)


def _loss_difference(first: Audited, second: Audited, a: Arrays, b: Arrays, headline: str) -> dict[str, Any]:
    member, patient = a[f"{headline}/member"].astype(np.bool_), a[f"{headline}/patient"]
    forget, test = (
        [mean_statistic(arrays[f"cross_entropy/unlearned/{part}"]) for arrays in (a, b)] for part in ("forget", "test")
    )
    if "loss_difference" not in first.evidence["criteria"]:
        return _difference(first, second, "forget_cross_entropy", forget, patient[member], None)

    def less(own: Statistic, other: Statistic) -> Statistic:
        return lambda weights: own(weights[:, member]) - other(weights[:, ~member])

    return _difference(first, second, "loss_difference", [*map(less, forget, test)], patient, member)


def _difference(
    first: Audited,
    second: Audited,
    figure: str,
    statistics: Sequence[Statistic],
    patients: NDArray[Any],
    strata: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """``second`` minus ``first``."""
    options, rng = first.evidence["options"], np.random.default_rng(first.evidence["seed"])
    interval: Interval = paired_difference_interval(
        statistics[1],
        statistics[0],
        patients,
        rng,
        strata=strata,
        n_resamples=options["n_bootstrap"],
        level=options["level"],
    )
    values = [evaluate(statistic, len(patients)) for statistic in statistics]
    return {
        "first": second.name,
        "second": first.name,
        "figure": figure,
        "value": values[1] - values[0],
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "reason": interval.reason,
    }


def _document(folder: Path, kind: Any) -> dict[str, Any]:
    path = folder / f"{kind}.json"
    if kind == "run" and not path.is_file() and (folder / "exposure.json").is_file():
        raise AuditError(
            "this is the audit of a file of signals, which does not say which request it answers",
            where=str(folder),
            fix="compare runs; several unlearned models from elsewhere need a file each, and are read side by side",
        )
    try:
        return validate_document(json.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{kind}.json is missing or cannot be read", where=str(folder), fix="forgetmi audit --run makes it"
        ) from error


def _names(folders: Sequence[Path]) -> list[str]:
    """As few of the last steps of each path as tell all of them apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
