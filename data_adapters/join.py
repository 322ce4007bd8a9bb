"""Sources of one hospital, joined by patient: images from DICOM, notes from FHIR, laboratory values from OMOP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from forgetmi.data_adapters.aliases import unambiguous
from forgetmi.data_adapters.base import Adapter
from forgetmi.data_adapters.join_links import Link
from forgetmi.data_adapters.persons import Normal, Persons, Which, find_persons
from forgetmi.delimited import first_places
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.options import build_options
from forgetmi.records import LEVELS, RecordDataset, Skipped


@dataclass(frozen=True)
class JoinSource:
    """One source.

    Attributes:
        adapter: its adapter's name.
        options: the adapter's options.
        ids: which of its patient ids belong to the common id space: ``own`` (those that its records carry), ``other``
            (its aliases: the record numbers of FHIR patients, OMOP's ``person_source_value``) or ``any``.
        issuer: of these ids, only those of this issuer: ``system`` of ``system|value`` (FHIR), ``issuer`` of
            ``value^^^issuer`` (DICOM); the value alone is compared. With ``ids: other`` or ``any``, one issuer is found
            by itself; of several, one must be stated: two hospitals both have a patient 1.
        by: ``patient`` (its value goes to every base record of the patient) or ``study`` (to records of the same study,
            by the study's id or another id of it, such as the accession number).
        several: what becomes of a patient (or study) with several records that hold one modality. There is no "nearest
            in time": records have no common clock. ``refuse``, or ``first`` in the order of study and sample ids, which
            need not be the first in time; the others are left out and counted.
        rename: modality to the name that it gets here.
        request_ids: whether a request may name patients by this source's own ids too, where those are not of the
            common space (an EHR's deletions name FHIR ids). Ids that could mean two people are left out and counted.
    """

    adapter: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ids: Which = "own"
    issuer: str | None = None
    by: Literal["patient", "study"] = "patient"
    several: Literal["refuse", "first"] = "refuse"
    rename: Mapping[str, str] = field(default_factory=dict)
    request_ids: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Join:
    """Joins sources. The records are those of the base; the others add their modalities to them.

    Two sources' patients are one person where they share an id of the common id space, compared as exact text: ``0012``
    and ``12`` are two people unless ``normalise`` says otherwise. A source that knows two ids of one person joins both:
    their records then carry one patient id. What matches nothing is counted on either side: base records keep a missing
    modality (the notes count them), records of other sources are left out (``skipped`` counts them).

    Args:
        sources: name to source, two or more. Each needs real patient ids.
        id_space: what the common ids are ("MRN of St. Mary's"): for the notes, and so that somebody has thought of it.
        base: the source whose records are kept; the first by default.
        normalise: what may differ between two writings of one id: ``blanks``, ``case``, ``zeros`` (leading ones).
        labels: the source of the labels; by default the only one that has some.
        splits: the source of the splits; by default the only one that has others than "train". A person of the base
            whom it does not know is left out and counted.

    Raises:
        ConfigError: options that do not fit together; all of them at once.
    """

    name: ClassVar[str] = "join"
    summary: ClassVar[str] = "two or more sources of one hospital, joined by patient (and study) into one"
    levels: ClassVar[tuple[str, ...]] = LEVELS
    license_note: ClassVar[str] = "what the licences and use agreements of all joined sources forbid, together"

    sources: Mapping[str, JoinSource]
    id_space: str
    base: str | None = None
    normalise: tuple[Normal, ...] = ()
    labels: str | None = None
    splits: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if len(self.sources) < 2:
            problems.append(f"sources: two or more are needed, got {len(self.sources)}")
        if not self.id_space.strip():
            problems.append("id_space: say what the common ids are, for instance 'MRN of St. Mary\\'s'")
        for key in ("base", "labels", "splits"):
            given = getattr(self, key)
            if given is not None and given not in self.sources:
                problems.append(f"{key}: {given!r} is no source. {did_you_mean(given, self.sources)}")
        for name, source in self.sources.items():
            if source.adapter == self.name:
                problems.append(f"sources.{name}: a join cannot be joined; list its sources here")
                continue
            try:
                _adapter(name, source)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    @classmethod
    def inner_options(cls, values: Mapping[str, Any], convert: Callable[[Any, Any, str], Any]) -> dict[str, Any]:
        """Not yet checked options, with those of each source's adapter converted: their paths are relative too.

        Args:
            values: the options as given.
            convert: (adapter class, its options, their key) to its options.
        """
        from forgetmi.data_adapters import ADAPTERS

        found = dict(values)
        sources = values.get("sources")
        if isinstance(sources, Mapping):
            found["sources"] = dict(sources)
            for name, source in sources.items():
                options = source.get("options") if isinstance(source, Mapping) else None
                if isinstance(options, Mapping) and source.get("adapter") in ADAPTERS:
                    made = convert(ADAPTERS[source["adapter"]], options, f"sources.{name}.options")
                    found["sources"][name] = {**source, "options": made}
        return found

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Source to adapter."""
        return {name: _adapter(name, source) for name, source in self.sources.items()}

    def load(self) -> RecordDataset:
        """Load every source and join them.

        Raises:
            DataError: a source is not what its format says or has no patient ids; an id could mean two people; a study
                has two patients; several sources have labels (or splits), and none is stated; a person stands in two
                splits; two modalities have one name; a patient has several records of a modality
                (``several: refuse``); nobody is in two sources.
        """
        data = {name: adapter.load() for name, adapter in self.adapters.items()}
        base_name = self.base or next(iter(self.sources))
        base = data[base_name]
        kinds = self._modality_kinds(data)
        which = {name: (source.ids, source.issuer) for name, source in self.sources.items()}
        persons = find_persons(data, which, self.normalise, self.id_space)
        links = {
            name: Link(
                name, data[name], base_name, base, persons, by=source.by, first_of_several=source.several == "first"
            )
            for name, source in self.sources.items()
            if name != base_name
        }
        if not any(link.matched for link in links.values()):
            raise DataError(
                f"no patient of {base_name} is in any other source",
                expected=f"the same {self.id_space} in both",
                fix="compare how the sources write their ids; see the options ids, issuer and normalise",
            )
        labelled = self._only("labels", data, [n for n, d in data.items() if any(r.label is not None for r in d)])
        stated = self._only("splits", data, [n for n, d in data.items() if {r.split for r in d} != {"train"}])
        split_of = _splits(data[stated or base_name], stated or base_name, persons)
        canonical = persons.canonical(base_name)
        skipped = [item for link in links.values() for item in link.skipped]
        records = []
        for index, record in enumerate(base):
            person = persons.of(base_name, record.patient_id)
            label = record.label if labelled in (None, base_name) else links[labelled].label(index)
            if person not in split_of or (labelled is not None and label is None):
                skipped.append(("no label" if person in split_of else "no split", record.sample_id))
                continue
            values = {kinds[base_name, name]: value for name, value in record.modalities.items()}
            for name, link in links.items():
                values |= {kinds[name, modality]: value for modality, value in link.values(index).items()}
            records.append(
                replace(
                    record,
                    patient_id=canonical[person],
                    modalities=values,
                    label=label,
                    split=split_of[person],
                )
            )
        aliases, dropped = self._aliases(data, persons, base_name, canonical)
        notes = [
            f"patients are joined by {self.id_space}"
            + (f", without regard to {', '.join(self.normalise)}" if self.normalise else ", compared as exact text"),
            *(note for link in links.values() for note in link.notes),
            *persons.notes(base_name),
            *([f"{dropped} ids mean different people: a request cannot use them"] if dropped else []),
            *(f"{name}: {note}" for name, found in data.items() for note in found.notes),
        ]
        return RecordDataset(
            records,
            name=self.name,
            levels=(*base.levels, "modality"),
            classes=data[labelled].classes if labelled is not None else (),
            modality_kinds={kinds[n, m]: kind for n, found in data.items() for m, kind in found.modality_kinds.items()},
            license_note="; ".join(dict.fromkeys(found.license_note for found in data.values() if found.license_note)),
            skipped=_merge(Skipped.collect(skipped), {name: found.skipped for name, found in data.items()}),
            notes=notes,
            aliases={"patient": aliases, "study": base.aliases.get("study", {})},
            sections={kinds[n, m]: names for n, found in data.items() for m, names in found.sections.items()},
        )

    def _modality_kinds(self, data: Mapping[str, RecordDataset]) -> dict[tuple[str, str], str]:
        """``(source, modality)`` to the name that it has here."""
        names: dict[tuple[str, str], str] = {}
        for source, found in data.items():
            if "patient" not in found.levels:
                raise DataError(
                    f"source {source!r} has no patient ids: nobody knows whom its records belong to",
                    expected="a source that supports requests at level patient",
                )
            rename = self.sources[source].rename
            if unknown := [name for name in rename if name not in found.modality_kinds]:
                raise DataError(
                    f"sources.{source}.rename: no modality {unknown[0]!r}. "
                    f"{did_you_mean(unknown[0], found.modality_kinds)}"
                )
            names |= {(source, name): rename.get(name, name) for name in found.modality_kinds}
        repeated = [name for name, n in Counter(names.values()).items() if n > 1]
        if repeated:
            raise DataError(
                f"several modalities have one name: {', '.join(sorted(repeated))}",
                fix="give one of them another name: `rename: {text: note}`",
            )
        return names

    def _only(self, what: str, data: Mapping[str, RecordDataset], having: list[str]) -> str | None:
        """The source of the labels or splits; ``None`` where no source has any."""
        stated: str | None = getattr(self, what)
        if stated is None and len(having) > 1:
            raise DataError(
                f"several sources have {what}: {', '.join(having)}",
                expected=f"one source of the {what}",
                fix=f"state it: `{what}: {having[0]}`",
            )
        if stated is not None and what == "labels" and stated not in having:
            raise DataError(f"source {stated!r} has no labels")
        return stated or next(iter(having), None)

    def _aliases(
        self, data: Mapping[str, RecordDataset], persons: Persons, base_name: str, canonical: Mapping[int, str]
    ) -> tuple[dict[str, str], int]:
        """Other ids of the people: those of the common id space, and of sources whose ids a request may use."""
        pairs = [(key, canonical[person]) for key, person in persons.written() if person in canonical]
        strangers = {key for key, person in persons.written() if person not in canonical}
        for name, source in self.sources.items():
            if name == base_name or source.request_ids:
                own = data[name].aliases.get("patient", {})
                for other, patient in [*own.items(), *((p, p) for p in {*data[name].patients(), *own.values()})]:
                    person = persons.of(name, patient)
                    if person in canonical:
                        pairs.append((other, canonical[person]))
                    else:
                        strangers.add(other)
        return unambiguous(pairs, {*canonical.values(), *strangers})


def _adapter(name: str, source: JoinSource) -> Adapter:
    from forgetmi.data_adapters import ADAPTERS

    try:
        kind = ADAPTERS[source.adapter]
    except ConfigError as error:
        raise ConfigError([f"sources.{name}.adapter: {problem}" for problem in error.problems]) from None
    adapter: Adapter = build_options(kind, source.options, where=f"sources.{name}.options")
    return adapter


def _splits(data: RecordDataset, name: str, persons: Persons) -> dict[int, str]:
    """Person to split."""
    split: dict[int, str] = {}
    wrong = [
        record.patient_id
        for record in data
        if split.setdefault(persons.of(name, record.patient_id), record.split) != record.split
    ]
    if wrong:
        raise DataError(
            f"{len(set(wrong))} people have two ids in {name}, one in one split and one in another",
            expected="one split for each person",
            fix="correct the splits, or draw them anew with data.split: both ids are one person",
            private=first_places(sorted(set(wrong))),
        )
    return split


def _merge(own: Skipped, parts: Mapping[str, Skipped]) -> Skipped:
    counts, examples = dict(own.counts), dict(own.examples)
    for name, part in parts.items():
        counts |= {f"{name}: {reason}": n for reason, n in part.counts.items()}
        examples |= {f"{name}: {reason}": places for reason, places in part.examples.items()}
    return Skipped(counts, examples)
