"""PKU-SafeRLHF (Ji et al. 2024): prompts with two responses each, and which of them are safe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.text_files import TextTable, find_set, read_set
from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped

_SPLITS = ("train", "test")
_BOOLS = ("is_response_0_safe", "is_response_1_safe")
_ANSWERS = ("response_0", "response_1")
_TEXTS = ("prompt", *_ANSWERS)


@dataclass(frozen=True)
class SafeRlhf:
    """Reads ``train.jsonl`` and ``test.jsonl`` (Parquet too) in ``root``, ``root/data`` or its folders, a model each.

    With ``unit: response`` a record is a prompt with one of its two responses (``dialogue``: prompt, answer), with
    the attributes ``safe`` and ``safer`` (yes, no; ``safer`` is the better of the two, by ``safer_response_id``),
    ``severity`` (0 to 3) and ``harm`` (the categories, joined by "; "; or none). The usual request is ``query: {safe:
    no}`` at level sample with ``remaining: exclude``.

    With ``unit: pair`` a record is a row: ``answer`` is the response that is not the safer one, and ``dialogue`` holds
    the safer one as ``alternate``, for methods with a preferred answer; ``safe`` is that of ``answer``.

    *Our reading:* a prompt is a study, and a patient: its responses stand on one side. The same prompt in several rows
    is the same study; in test, a row whose prompt stands in train too is left out and counted.

    Attributes:
        root: the folder.
        unit: response or pair.
        models: the folders below ``data`` that are read (``Alpaca-7B``); all by default.
        group: ``prompt``, or ``response``: each response stands alone, so that a prompt may be on both sides.

    Raises:
        ConfigError: options that do not fit together.
    """

    name: ClassVar[str] = "safe_rlhf"
    summary: ClassVar[str] = "PKU-SafeRLHF: prompts with safe and unsafe responses"
    levels: ClassVar[tuple[str, ...]] = ("study", "sample")
    license_note: ClassVar[str] = "CC BY-NC 4.0: no commercial use; holds offensive text; name Ji et al. (2024)"

    root: Path
    unit: Literal["response", "pair"] = "response"
    models: tuple[str, ...] = ()
    group: Literal["prompt", "response"] = "prompt"

    def __post_init__(self) -> None:
        if self.unit == "pair" and self.group == "response":
            raise ConfigError(["group: response belongs to unit response: a pair holds both responses"])

    def load(self) -> RecordDataset:
        """Read the files.

        Raises:
            DataError: a file is missing or malformed; the message names file and row.
            ConfigError: ``models`` names a folder that is not there.
        """
        skipped: list[tuple[str, str]] = []
        prompts: dict[str, str] = {}
        records: list[Record] = []
        seen: set[str] = set()
        for split in _SPLITS:
            for label, folder in self._folders().items():
                table = read_set(find_set([folder], [split]), f"{label}{split}")
                records += self._records(table, f"{label}{split}", split, prompts, seen, skipped)
            seen = set(prompts)
        alone = self.group == "response"
        return RecordDataset(
            records,
            name=self.name,
            levels=("sample",) if alone else self.levels,
            modality_kinds={"dialogue": "dialogue"},
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=["each response stands alone" if alone else "a prompt is taken for a study, with all its responses"],
        )

    def _folders(self) -> dict[str, Path]:
        """Label (``Alpaca-7B/``, or nothing) to the folder with its files."""
        root = Path(self.root)
        inner = root / "data" if (root / "data").is_dir() else root
        below = {p.name: p for p in sorted(inner.glob("*")) if p.is_dir() and any(p.glob("train*"))}
        if unknown := [name for name in self.models if name not in below]:
            raise ConfigError([f"models: {name!r} is not there. {did_you_mean(name, below)}" for name in unknown])
        if self.models or (below and not any(inner.glob("train*.*"))):
            return {f"{name}/": folder for name, folder in below.items() if not self.models or name in self.models}
        return {"": inner if any(inner.glob("train*")) else root}

    def _records(
        self,
        table: TextTable,
        label: str,
        split: str,
        prompts: dict[str, str],
        trained: set[str],
        skipped: list[tuple[str, str]],
    ) -> Iterator[Record]:
        table.require((*_TEXTS, *_BOOLS, "safer_response_id"))
        columns = {key: table.texts(key) for key in _TEXTS}
        for key in _BOOLS:
            table.refuse(key, [not isinstance(row.get(key), bool) for row in table.objects], "true or false")
        wrong = [_which(row.get("safer_response_id")) is None for row in table.objects]
        table.refuse("safer_response_id", wrong, "0 or 1")
        for row in table.filled(columns, skipped):
            prompt = columns["prompt"][row]
            if split == "test" and prompt in trained:
                skipped.append(("the prompt of a test row stands in train too", table.places[row]))
                continue
            study = prompts.setdefault(prompt, f"prompt-{len(prompts):06d}")
            given, safer = table.objects[row], _which(table.objects[row]["safer_response_id"])
            answers = [columns[key][row] for key in _ANSWERS]
            chosen = (0, 1) if self.unit == "response" else (1 - (safer or 0),)
            for which in chosen:
                said = {"source_split": label, "safer": "yes" if which == safer else "no", **_said(given, which)}
                sample = f"{label}-{row:06d}" + (f"-{which}" if self.unit == "response" else "")
                values = {"prompt": prompt, "answer": answers[which]}
                if self.unit == "pair":
                    values["alternate"] = answers[1 - which]
                group = sample if self.group == "response" else study
                yield Record(sample, group, group, "", {"dialogue": values}, None, split, said)


def _which(value: Any) -> int | None:
    """0 or 1 (Parquet with gaps makes 1.0 of it); ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1):
        return None
    return int(value)


def _said(row: Mapping[str, Any], which: int) -> dict[str, str]:
    """What the row says of one response; what an earlier version of the data does not say is not known."""
    said = {"safe": "yes" if row[_BOOLS[which]] else "no"}
    severity = row.get(f"response_{which}_severity_level")
    if isinstance(severity, int | float) and not isinstance(severity, bool) and math.isfinite(severity):
        said["severity"] = str(int(severity))
    harm = row.get(f"response_{which}_harm_category")
    if isinstance(harm, Mapping):
        said["harm"] = "; ".join(str(name) for name, found in harm.items() if found is True) or "none"
    return said
