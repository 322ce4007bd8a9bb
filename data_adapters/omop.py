"""OMOP CDM 5.3 and 5.4: notes, measurements and conditions of people and visits, from files or a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from forgetmi.data_adapters.diagnoses import Diagnoses
from forgetmi.data_adapters.events import Aggregate, Events, Note, number_or_text
from forgetmi.data_adapters.label_table import LabelTable
from forgetmi.data_adapters.omop_tables import Tables, open_tables
from forgetmi.data_adapters.streams import whole_id
from forgetmi.errors import ConfigError, did_you_mean
from forgetmi.records import RecordDataset

_LABEL_IDS = ("patient", "visit", "sample")
# They lead to people without a person_id: through another table's ids.
_INDIRECT = {"cost", "episode_event", "fact_relationship", "note_nlp"}
Pairs = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Omop:
    """Reads an OMOP CDM.

    Ids: patient = person_id (it may be negative; person_source_value is an alias, bare and as
    ``person_source_value|...``); study = visit_occurrence_id (visit_source_value is an alias), or of a note without a
    visit its sample id; sample = ``note/`` and the note_id, or the study's or patient's id. The prefix keeps note 5 and
    visit 5 apart: they are two people's.

    Args:
        root: a folder of tables (CSV, TSV, ``.gz`` too, or Parquet), or an SQLite file (``.db``, ``.sqlite``,
            ``.sqlite3``).
        database_env: in place of ``root``: the environment variable with the database's URL, as SQLAlchemy writes it.
            The URL holds a password, so the configuration, which a run keeps, never does. Let it name an account that
            may only read.
        schema: the CDM's schema in the database.
        unit: what a record is: ``visit``, ``note`` or ``patient``.
        modalities: ``text`` (notes), ``tabular`` (year of birth, gender, race, ethnicity, measurements), or both.
        measurements: ``measurement``, ``observation``, or both.
        concepts: concept ids of measurements to read; by default all.
        aggregate: what several values of one concept become: ``last``, ``first`` or ``mean``.
        labels: a table of labels keyed by ``patient``, ``visit`` or ``sample``.
        diagnoses: in place of ``labels``: label name to condition concept ids, for a multilabel target of the visit (of
            the patient, where that is the unit). Where the vocabulary's concept_ancestor is there, a concept means its
            descendants too; the notes say which. Without any condition there is no label.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "omop"
    summary: ClassVar[str] = "an OMOP CDM as CSV, Parquet or a database: notes and measurements of visits and people"
    levels: ClassVar[tuple[str, ...]] = ("patient", "study", "sample", "modality")
    license_note: ClassVar[str] = "your own data: its use agreement is not known to this package"

    root: Path | None = None
    database_env: str | None = None
    schema: str | None = None
    unit: Literal["visit", "note", "patient"] = "visit"
    modalities: tuple[Literal["text", "tabular"], ...] = ("text", "tabular")
    measurements: tuple[Literal["measurement", "observation"], ...] = ("measurement",)
    concepts: tuple[int, ...] | None = None
    aggregate: Aggregate = "last"
    labels: LabelTable | None = None
    diagnoses: Mapping[str, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        problems = []
        if (self.root is None) == (self.database_env is None):
            problems.append("give either root (a folder or an SQLite file) or database_env, and not both")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            problems.append("modalities: name text, tabular or both, each once")
        if self.unit == "note" and "text" not in self.modalities:
            problems.append("unit: a record that is a note needs the modality text")
        if self.labels is not None and self.diagnoses is not None:
            problems.append("give labels or diagnoses, not both")
        if self.labels is not None and self.labels.ids not in _LABEL_IDS:
            problems.append(f"labels.ids: {self.labels.ids!r} is unknown. {did_you_mean(self.labels.ids, _LABEL_IDS)}")
        for name, concepts in (self.diagnoses or {}).items():
            if not concepts or 0 in concepts:
                problems.append(f"diagnoses.{name}: expected concept ids; 0 stands for every code without a concept")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Read the tables. Nothing is written.

        Raises:
            DataError: a table or column is missing, a row is malformed, an id is no whole number, one person or visit
                stands on two rows, or a row names another person's visit. The message names table and row.
        """
        tables = open_tables(self.root, self.database_env, self.schema)
        events = Events(self.unit, self.aggregate)
        read = {"person", "visit_occurrence"}
        aliases = _people(tables, events)
        if self.unit == "visit" or "visit_occurrence" in tables.columns:
            aliases |= _visits(tables, events)
        if "text" in self.modalities:
            _notes(tables, events)
            read.add("note")
        if "tabular" in self.modalities:
            for table in self.measurements:
                self._values(tables, events, table)
                read.add(table)
        labels: Any = self.labels
        if self.diagnoses is not None:
            labels = self._labels(tables, events)
            read |= {"condition_occurrence", "concept_ancestor"}
        if others := [table for table in _about_people(tables) if table not in read]:
            events.messages.append(f"tables that hold these patients too and were not read: {', '.join(others)}")
        return events.dataset(
            self, modalities=self.modalities, labels=labels, classes=tuple(self.diagnoses or ()), aliases=aliases
        )

    def _values(self, tables: Tables, events: Events, table: str) -> None:
        columns = ("person_id", f"{table}_concept_id")
        word = "value_as_string" if table == "observation" else "value_source_value"
        optional = ("visit_occurrence_id", f"{table}_datetime", f"{table}_date", "value_as_number", word,
                    "value_as_concept_id", "unit_concept_id", "unit_source_value", f"{table}_source_value")  # fmt: skip
        wanted = None if self.concepts is None else set(map(str, self.concepts))
        for place, cells in tables.rows(table, columns, optional):
            concept = whole_id(cells[1], place)
            if wanted is not None and concept not in wanted:
                continue
            number, words, of_value, of_unit, unit, source = cells[5:]
            patient = _person(events, cells[0], place)
            if not patient:
                continue
            visit = events.visit_of(patient, whole_id(cells[2], place), place)
            # Concept 0 is "no concept fits": the source's own code is then the name.
            name = concept if concept not in ("", "0") else f"source:{source.strip()}" if source.strip() else ""
            value = number_or_text(number) if number.strip() else _concept(of_value, place) or number_or_text(words)
            if not name:
                events.skipped.append((f"{table} without a concept and without a source code", place))
            elif value is not None:
                # The unit is part of the name: mg/dL and mmol/L of one concept are not one column.
                unit = whole_id(of_unit, place) if whole_id(of_unit, place) not in ("", "0") else unit.strip()
                events.add_value(patient, visit, f"{name} [{unit}]" if unit else name, cells[3] or cells[4], value)

    def _labels(self, tables: Tables, events: Events) -> dict[str, tuple[float | None, ...]]:
        """Visit (patient) to a value a label."""
        named = {name: {str(concept) for concept in concepts} for name, concepts in (self.diagnoses or {}).items()}
        wanted = {name: set(concepts) for name, concepts in named.items()}
        if "concept_ancestor" in tables.columns:
            for _, (ancestor, descendant) in tables.rows(
                "concept_ancestor", ("ancestor_concept_id", "descendant_concept_id")
            ):
                for name, concepts in named.items():
                    if ancestor.strip() in concepts:
                        wanted[name].add(descendant.strip())
            events.messages.append("a diagnosis means its concepts and their descendants in concept_ancestor")
        else:
            events.messages.append("no concept_ancestor: a diagnosis means the listed concepts only, no narrower ones")
        found = Diagnoses({name: tuple(concepts) for name, concepts in wanted.items()}, exact=True)
        stray = 0
        columns = ("person_id", "condition_concept_id")
        for place, cells in tables.rows("condition_occurrence", columns, ("visit_occurrence_id",)):
            patient = _person(events, cells[0], place)
            if not patient:
                continue
            visit = events.visit_of(patient, whole_id(cells[2], place), place)
            if owner := patient if self.unit == "patient" else visit:
                found.add(owner, whole_id(cells[1], place))
            else:
                stray += 1
        if stray:
            events.messages.append(f"{stray} conditions belong to no visit: they label no record")
        return found.labels()


def _people(tables: Tables, events: Events) -> Pairs:
    known = ("gender_concept_id", "race_concept_id", "ethnicity_concept_id")
    pairs = []
    for place, cells in tables.rows("person", ("person_id",), ("year_of_birth", "person_source_value", *known)):
        patient = whole_id(cells[0], place)
        if not patient:
            events.skipped.append(("person_id is blank", place))
            continue
        events.add_new_patient(
            patient,
            {
                "birth_year": number_or_text(cells[1]),
                **{
                    name.removesuffix("_concept_id"): _concept(cell, place)
                    for name, cell in zip(known, cells[3:], strict=True)
                },
            },
            place,
        )
        if source := cells[2].strip():
            pairs += [(source, patient), (f"person_source_value|{source}", patient)]
    return {"patient": pairs}


def _visits(tables: Tables, events: Events) -> Pairs:
    columns = ("person_id", "visit_occurrence_id")
    optional = ("visit_start_date", "visit_concept_id", "care_site_id", "visit_source_value")
    pairs = []
    for place, cells in tables.rows("visit_occurrence", columns, optional):
        patient, visit = _person(events, cells[0], place), whole_id(cells[1], place)
        if not patient:
            continue
        if not visit:
            events.skipped.append(("visit_occurrence_id is blank", place))
            continue
        attributes = {"VisitDate": cells[2].strip()[:10], "CareSite": whole_id(cells[4], place)}
        filled = {name: text for name, text in attributes.items() if text}
        events.add_visit(visit, patient, {"visit_type": _concept(cells[3], place)}, place, filled)
        if source := cells[5].strip():
            pairs.append((source, visit))
    return {"study": pairs}


def _notes(tables: Tables, events: Events) -> None:
    columns = ("note_id", "person_id", "note_text")
    for place, cells in tables.rows("note", columns, ("visit_occurrence_id", "note_datetime", "note_date")):
        patient = _person(events, cells[1], place)
        if not patient:
            continue
        note = whole_id(cells[0], place)
        if not note or not cells[2].strip():
            events.skipped.append(("note_id or note_text is blank", place))
            continue
        visit = events.visit_of(patient, whole_id(cells[3], place), place)
        events.notes.append(Note(f"note/{note}", patient, visit, cells[4] or cells[5], cells[2], place))


def _person(events: Events, cell: str, place: str) -> str:
    """The person's id; blank, and counted, where it is none of the table person."""
    patient = whole_id(cell, place)
    if patient not in events.patients:
        events.skipped.append(("person_id is not in person" if patient else "person_id is blank", place))
        return ""
    return patient


def _concept(cell: str, place: str) -> str | None:
    """A concept as a category: its number is no quantity. Concept 0 means that nothing is known."""
    concept = whole_id(cell, place)
    return None if concept in ("", "0") else f"concept:{concept}"


def _about_people(tables: Tables) -> Iterator[str]:
    """The tables with rows that lead to people, in the order of their names."""
    for table, columns in sorted(tables.columns.items()):
        direct = [name for name in columns if name in ("person_id", "subject_id")]
        if (direct or table in _INDIRECT) and next(tables.rows(table, (direct or columns)[:1]), None) is not None:
            yield table
