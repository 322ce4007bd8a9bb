"""A look at the data and the request before anything is run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetmi.config import Config
from forgetmi.errors import ConfigError, DataError
from forgetmi.partition import PARTS
from forgetmi.records import SPLITS, Record
from forgetmi.runs.folder import RunFolder, fingerprint
from forgetmi.runs.prepare import Prepared
from forgetmi.runs.shadow_plan import ShadowPlan
from forgetmi.runs.stages import original_depends, retrained_depends, unlearned_depends
from forgetmi.training.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType


def describe(prepared: Prepared) -> dict[str, Any]:
    """Counts of everything, JSON-able, without an id."""
    dataset, partition = prepared.dataset, prepared.partition
    records = list(dataset)
    return {
        "schema": "forgetmi.check/1",
        "data": dataset.name,
        "levels": list(dataset.levels),
        "classes": list(dataset.classes),
        "notes": list(dataset.notes),
        "license_note": dataset.license_note,
        "skipped": dict(dataset.skipped.counts),
        "splits": {split: _counts(records, split, prepared) for split in SPLITS},
        "request": {
            "level": partition.level,
            "modalities": None if partition.modalities is None else list(partition.modalities),
            "n_ids": len(prepared.request.ids),
            "repeated_ids": prepared.request.duplicates,
            "parts": partition.counts(),
            "excluded": len(partition.excluded),
            "leftovers": dict(partition.leftovers),
        },
    }


def _counts(records: Sequence[Record], split: str, prepared: Prepared) -> dict[str, Any]:
    chosen = [record for record in records if record.split == split]
    classes = prepared.dataset.classes
    labels: Counter[str] = Counter()
    for record in chosen:
        if record.label is None:
            labels["no label"] += 1
        elif isinstance(record.label, tuple):
            labels.update(classes[i] if classes else str(i) for i, value in enumerate(record.label) if value == 1)
        else:
            labels[classes[record.label] if classes else str(record.label)] += 1
    present = {
        name: sum(record.modalities.get(name) is not None for record in chosen)
        for name in prepared.dataset.modality_kinds
    }
    return {
        "patients": len({r.patient_id for r in chosen}),
        "studies": len({(r.patient_id, r.study_id) for r in chosen}),
        "samples": len(chosen),
        "present": present,
        "labels": dict(sorted(labels.items())),
    }


def table(found: dict[str, Any]) -> RenderableType:
    """What :func:`describe` returned, for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    splits = Table(title=f"{found['data']}", title_justify="left")
    splits.add_column("")
    for split in SPLITS:
        splits.add_column(split, justify="right")
    for row in ("patients", "studies", "samples"):
        splits.add_row(row, *(str(found["splits"][split][row]) for split in SPLITS))
    for group, word in (("present", "with"), ("labels", "label")):
        for name in dict.fromkeys(name for split in SPLITS for name in found["splits"][split][group]):
            values = (str(found["splits"][split][group].get(name, 0)) for split in SPLITS)
            splits.add_row(Text(f"{word} {name}"), *values)
    request = found["request"]
    parts = Table(title=f"request: {request['n_ids']} ids at level {request['level']}", title_justify="left")
    for column in ("part", "patients", "studies", "samples"):
        parts.add_column(column, justify="left" if column == "part" else "right")
    for part, n in request["parts"].items():
        parts.add_row(part, *(str(n[key]) for key in ("patients", "studies", "samples")))
    lines = [Text(f"note: {note}") for note in found["notes"]]
    lines += [Text(f"skipped, {reason}: {count}") for reason, count in found["skipped"].items()]
    if request["repeated_ids"]:
        lines.append(Text(f"the request repeats {request['repeated_ids']} ids (harmless)"))
    if request["excluded"]:
        lines.append(Text(f"used on neither side: {request['excluded']} train samples of the same patients"))
    return Group(splits, parts, *lines)


def skipped_places(prepared: Prepared) -> list[str]:
    """Where skipped rows and files stand, for the terminal: places may hold ids."""
    examples = prepared.dataset.skipped.examples
    return [f"  {reason}, for instance: {', '.join(places[:3])}" for reason, places in examples.items()]


def plan(prepared: Prepared) -> list[str]:
    """What a run would do, stage by stage."""
    config = prepared.config
    folder = RunFolder(config.run.folder)
    original = folder.is_done("original", fingerprint(*original_depends(prepared)))
    unlearned = original and folder.is_done("unlearned", fingerprint(*unlearned_depends(prepared, folder)))
    made = "given with its weights" if config.model.is_given else "to be trained"
    lines = [
        f"original: {'kept' if original else made}",
        f"unlearned: {config.method.name}, {'kept' if unlearned else 'to be made'}",
    ]
    kept = sum(
        folder.is_done(f"retrained-{index}", fingerprint(*retrained_depends(prepared, index)))
        for index in range(config.retrains)
    )
    lines.append(f"retrained: {config.retrains}, {kept} of them kept, {config.workers} at a time")
    if config.shadow.shadows:
        lines.append(ShadowPlan(prepared, folder.path).sentence())
    lines.append(f"audit: {', '.join(config.audit.attacks)}; report in {config.run.folder}")
    return lines


def read_values(prepared: Prepared, *, progress: bool) -> None:
    """Read records once, before anything is trained: a file that cannot be read is found now, and not by the audit.

    Where prepared examples are kept in memory, every record of every part is read, and no file is read a second time.
    Where they are not, retain records are left to the first epoch, which reads them anyway.

    Raises:
        DataError: a value cannot be read.
    """
    loader = prepared.loader
    parts = [part for part in PARTS if loader.keeps_examples or part != "retain"]
    indices = [index for part in parts for index in prepared.partition.indices(part)]
    bar = Progress(len(indices), "reading records", enabled=progress)
    try:
        for index in indices:
            try:
                loader.batch([index])
            except DataError as error:
                lists = "forgetmi check --read lists every value that cannot be read"
                error.fix = lists if error.fix is None else f"{error.fix}; {lists}"
                error.private = (*error.private, f"sample {prepared.dataset[index].sample_id}")
                raise
            bar.advance({})
    finally:
        bar.close()


def refuse_data_folder(config: Config, targets: Mapping[str, Path]) -> None:
    """Raise :class:`ConfigError` where something would be written into a folder that data is read from.

    A source that is one file (a manifest's table) has no folder of its own: what stands beside it is no data.

    Args:
        config: names the sources.
        targets: option or setting to the file or folder that it names.
    """
    problems, folders = [], []
    for adapter in (config.adapter, *getattr(config.adapter, "adapters", {}).values()):  # those of a join too
        for field in dataclasses.fields(adapter):
            source = getattr(adapter, field.name)
            if not isinstance(source, Path) or not source.is_dir():
                continue
            for setting, target in targets.items():
                place = target.expanduser().resolve()
                if source.resolve() in (place, *place.parents):
                    problems.append(f"{setting}: {target.name} would be written into the data folder")
                    folders.append(str(source))
    if problems:
        raise ConfigError(
            list(dict.fromkeys(problems)),
            where=", ".join(dict.fromkeys(folders)),
            fix="name a place elsewhere: data folders are never written to",
        )


def refuse_own_places(config: Config) -> None:
    """Raise :class:`ConfigError` where the run's folder or the key's file lies in a data folder."""
    targets = {"run.folder": config.run.folder, "run.key_file": config.run.key_file}
    if config.shadow.shadow_folder is not None:
        targets["audit.shadow_folder"] = config.shadow.shadow_folder
    refuse_data_folder(config, targets)
