"""Groups of records for the audit's subgroup tables: site, label, sex, age, and what else the source says of records.

Only attributes with few values make groups. A date, an identifier or a free text would make a group of each person.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from forgetmi.records import Label, Record, RecordDataset

logger = logging.getLogger("forgetmi")

MOST_VALUES = 12
NOT_KNOWN = "not known"
# attribute's name in a source (lower case, letters only) to the name of the table
_NAMES = {
    **dict.fromkeys(("sex", "gender", "patientsex", "patientgender"), "sex"),
    **dict.fromkeys(("age", "patientage", "anchorage", "ageatimaging"), "age"),
    **dict.fromkeys(("ethnicity", "race", "ethnicgroup", "patientrace"), "ethnicity"),
    **dict.fromkeys(("insurance", "insurancetype"), "insurance"),
}
_BANDS = ((18, "0 to 17"), (40, "18 to 39"), (65, "40 to 64"), (80, "65 to 79"))
_AGE = re.compile(r"^(\d{1,3})(?:\.\d*)?\s*([YMWD]?)$", re.IGNORECASE)


def groups_of(dataset: RecordDataset) -> dict[str, NDArray[np.str_]]:
    """Table to each record's group [N], in the dataset's order.

    ``site`` is the institution, ``label`` the class (multilabel: the one finding, ``none`` or ``several``). Of the
    attributes, those with 2 to 12 values; ages become bands. What is left out is logged, by name.
    """
    records = list(dataset)
    readers: dict[str, Callable[[Record], str]] = {
        "site": lambda record: record.institution,
        "label": lambda record: _label(record.label, dataset.classes),
    }
    for attribute in sorted({name for record in records for name in record.attributes}):
        table = _NAMES.get(re.sub("[^a-z]", "", attribute.lower()), attribute)
        if table not in readers:
            readers[table] = _reader(attribute, age=table == "age")
    found, left = {}, []
    for table, read in readers.items():
        values = [read(record).strip() or NOT_KNOWN for record in records]
        n = len(Counter(values))
        if 2 <= n <= MOST_VALUES:
            found[table] = np.array(values)
        elif n > MOST_VALUES:
            left.append(f"{table} ({n} values)")
    if left:
        logger.info("subgroups: left out, because each has more than %d values: %s", MOST_VALUES, ", ".join(left))
    return found


def age_band(text: str) -> str:
    """``"045Y"``, ``"67"`` or ``"300"`` as a band of years; ``""`` where it is not an age.

    The letter is DICOM's unit (years, months, weeks, days). 300 is how some sources write "over 89".
    """
    match = _AGE.match(text.strip())
    if match is None:
        return ""
    years = int(match[1]) if match[2].upper() in ("", "Y") else 0
    return next((band for end, band in _BANDS if years < end), "80 and more")


def _reader(attribute: str, *, age: bool) -> Callable[[Record], str]:
    def read(record: Record) -> str:
        value = record.attributes.get(attribute, "")
        return age_band(value) if age else value

    return read


def _label(label: Label, classes: tuple[str, ...]) -> str:
    if label is None:
        return ""
    if isinstance(label, tuple):
        present = [index for index, value in enumerate(label) if value is not None and value > 0]
        return "none" if not present else "several" if len(present) > 1 else _name(present[0], classes)
    return _name(label, classes)


def _name(index: int, classes: tuple[str, ...]) -> str:
    return classes[index] if index < len(classes) else f"class {index}"
