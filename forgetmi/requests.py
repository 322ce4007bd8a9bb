"""What a forget request makes of a dataset: its records found, links followed, what remains counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Literal

from forgetmi.errors import ConfigError, DataError, RequestError, did_you_mean
from forgetmi.forget_request import ForgetRequest
from forgetmi.partition import Partition
from forgetmi.records import Record, RecordDataset
from forgetmi.request_sources import read_request
from forgetmi.values import SectionedText

__all__ = ["ForgetRequest", "read_request", "resolve"]


def resolve(
    dataset: RecordDataset, request: ForgetRequest, *, remaining: Literal["refuse", "exclude"] = "refuse"
) -> Partition:
    """What a request makes of a dataset.

    Ids are compared as exact strings, with the dataset's own ids and with its ``aliases``: two ids of one person name
    that person once. Validation and test lose the records of the patients that are concerned (which only an institution
    can have there). ``Partition.leftovers`` counts, level by level, what the same patients hold anywhere in the dataset
    beyond the forget records: institutions, patients, studies and samples of those other records; for a request at
    level ``modality`` or ``section``, the other modalities of the forget records; and for the latter their other
    sections (which reads the texts of the records that the ids name). ``Partition.remains`` says it in sentences.

    Args:
        dataset: the records with their splits.
        request: who or what is to be forgotten.
        remaining: what becomes of train records of the same patients that the request does not name. ``"refuse"``:
            an error that counts them, for they would put a patient on both sides. ``"exclude"``: used on neither side.

    Raises:
        RequestError: the data does not support the level; ids are unknown, ambiguous, not in the train split or
            without the modality (all are listed, with file and row); records of the same patients remain; nothing
            would be left to retain.
        ConfigError: ``remaining`` is neither.
    """
    if remaining not in ("refuse", "exclude"):
        raise ConfigError(
            [f"remaining={remaining!r} is unknown. {did_you_mean(str(remaining), ('refuse', 'exclude'))}"]
        )
    _check_level(dataset, request)
    positions = _positions(dataset, request)
    train = {identifier: [i for i in found if dataset[i].split == "train"] for identifier, found in positions.items()}
    _refuse_ids(
        request,
        [i for i in request.ids if not train[i]],
        "have no record in the train split",
        "the model was not trained on them: there is nothing to forget; take them out of the request",
    )
    wanted = request.modalities
    parts_wanted = dataset.section_parts(wanted or ()) if request.level == "section" else None
    if wanted is not None:
        train = {k: [i for i in found if _holds(dataset[i], wanted, parts_wanted)] for k, found in train.items()}
        _refuse_ids(
            request,
            [i for i in request.ids if not train[i]],
            f"have no record with {' or '.join(wanted)}",
            "there is nothing to forget; take them out of the request",
        )
    forget = {i for found in train.values() for i in found}
    patients = dataset.patients(i for found in positions.values() for i in found)
    others = [i for i, record in enumerate(dataset) if record.patient_id in patients and i not in forget]
    excluded = [i for i in others if dataset[i].split == "train"]
    leftovers = _leftovers(dataset, forget, others, wanted, parts_wanted)
    if excluded and remaining == "refuse":
        _refuse_remaining(dataset, request, len(forget), excluded)
    parts = {
        split: tuple(i for i in dataset.indices(split) if dataset[i].patient_id not in patients)
        for split in ("train", "validation", "test")
    }
    if not parts["train"]:
        raise RequestError(
            "the request covers the whole train split: nothing is left to retain",
            where=request.source,
            fix="a model that must forget everyone is deleted, not unlearned",
        )
    return Partition(
        dataset=dataset,
        forget=tuple(sorted(forget)),
        retain=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        level=request.level,
        modalities=wanted,
        excluded=tuple(excluded),
        leftovers=leftovers,
    )


def _check_level(dataset: RecordDataset, request: ForgetRequest) -> None:
    for level in dict.fromkeys((request.level, request.id_level)):
        if level not in dataset.levels:
            raise RequestError(
                f"{dataset.name} cannot support a request at level {level}",
                where=request.source,
                expected=f"one of {', '.join(dataset.levels)}",
                fix="use a level that the data has, or give the adapter the column with these ids",
            )
    if request.level == "section":
        try:
            dataset.section_parts(request.modalities or ())
        except DataError as error:
            raise RequestError(error.what, where=request.source) from None
        return
    unknown = [name for name in request.modalities or () if name not in dataset.modality_kinds]
    if unknown:
        hints = "; ".join(f"{name!r}: {did_you_mean(name, dataset.modality_kinds)}" for name in unknown)
        raise RequestError(f"{dataset.name} has no such modality. {hints}", where=request.source)


def _key(record: Record, level: str) -> str:
    return record.institution if level == "institution" else str(getattr(record, f"{level}_id"))


def _positions(dataset: RecordDataset, request: ForgetRequest) -> dict[str, list[int]]:
    """Id to positions, for ids that are all known and name one thing each; aliases are followed."""
    aliases = dataset.aliases.get(request.id_level, {})
    canonical = {identifier: aliases.get(identifier, identifier) for identifier in request.ids}
    found: dict[str, list[int]] = {identifier: [] for identifier in canonical.values()}
    field = "institution" if request.id_level == "institution" else f"{request.id_level}_id"
    for index, key in enumerate(map(attrgetter(field), dataset)):
        if key in found:
            found[key].append(index)
    positions = {identifier: found[meant] for identifier, meant in canonical.items()}
    unknown = [identifier for identifier in request.ids if not positions[identifier]]
    if unknown and all(identifier in aliases for identifier in unknown):
        _refuse_ids(
            request,
            unknown,
            f"are other ids of someone without a record in {dataset.name}",
            "there is nothing to forget here; take them out of the request",
        )
    if unknown:
        _refuse_ids(request, unknown, f"are not in {dataset.name}", _why_unknown(dataset, request, unknown))
    if request.id_level in ("study", "sample"):
        ambiguous = [i for i, found in positions.items() if len(dataset.patients(found)) > 1]
        _refuse_ids(
            request,
            ambiguous,
            "belong to more than one patient",
            "name the patients or the samples instead: the same id is used twice in the data",
        )
    return positions


def _why_unknown(dataset: RecordDataset, request: ForgetRequest, unknown: Iterable[str]) -> str:
    """The likeliest reason, from the data."""
    missing = set(unknown)
    for level in dataset.levels:
        if level not in ("modality", "section", request.id_level):
            known = {_key(record, level) for record in dataset} | set(dataset.aliases.get(level, {}))
            hits = len(missing & known)
            if hits:
                return f"{hits} of them are ids at level {level}: correct the level"
    bare = {_key(record, request.id_level).lstrip("0") for record in dataset}
    hits = sum(identifier.lstrip("0") in bare for identifier in missing)
    if hits:
        return f"{hits} of them match when leading zeros are ignored: write the ids as they stand in the data"
    return "correct these ids, or take them out of the request"


def _refuse_ids(request: ForgetRequest, ids: Sequence[str], problem: str, fix: str) -> None:
    if ids:
        place = dict(zip(request.ids, request.places, strict=True))
        raise RequestError(
            f"{len(ids)} of {len(request.ids)} {request.id_level} ids of the request {problem}",
            where=request.source,
            fix=fix,
            private=[f"{identifier} ({place[identifier]})" for identifier in ids],
        )


def _refuse_remaining(dataset: RecordDataset, request: ForgetRequest, named: int, others: Sequence[int]) -> None:
    by_patient: dict[str, list[Record]] = defaultdict(list)
    for index in others:
        by_patient[dataset[index].patient_id].append(dataset[index])
    studies = len({(dataset[i].patient_id, dataset[i].study_id) for i in others})
    raise RequestError(
        f"the request names {named} train samples, but {len(by_patient)} of their patients have {len(others)} other "
        f"samples in {studies} studies of the train split: these patients would stand on both sides",
        where=request.source,
        expected="forget and retain sets that are disjoint by patient",
        fix='widen the request to level patient, or choose remaining="exclude" (these samples are then used on '
        "neither side, and the report says so)",
        private=[f"{patient}: {len(records)} other samples" for patient, records in sorted(by_patient.items())],
    )


def _holds(record: Record, modalities: Iterable[str], parts: Mapping[str, Sequence[str]] | None) -> bool:
    """Whether the record has something of what is to be forgotten; for sections, the text is read."""
    if parts is None:
        return any(record.modalities.get(name) is not None for name in modalities)
    kept = record.keep_sections(parts)
    return any(kept.value(name) is not None for name in parts)


def _leftovers(
    dataset: RecordDataset,
    forget: Iterable[int],
    others: Sequence[int],
    modalities: Sequence[str] | None,
    parts: Mapping[str, Sequence[str]] | None,
) -> Mapping[str, int]:
    records = [dataset[index] for index in others]
    named = set() if modalities is None else set(modalities if parts is None else parts)
    kept = sections = 0
    for index in forget if modalities is not None else ():
        kept += sum(v is not None for name, v in dataset[index].modalities.items() if name not in named)
        for name, taken in (parts or {}).items():
            text = dataset[index].value(name)
            sections += len(set(text.sections) - set(taken)) if isinstance(text, SectionedText) else 0
    return {
        "institution": len({r.institution for r in records} - {""}),
        "patient": len({r.patient_id for r in records}),
        "study": len({(r.patient_id, r.study_id) for r in records}),
        "sample": len(records),
        "modality": kept,
        "section": sections,
    }
