"""Labels from coded diagnoses: which of the wanted ones a visit or a patient has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence


class Diagnoses:
    """Codes of visits (or patients) on their way to a multilabel target.

    A code belongs to a coding system: ``10:I50`` is an ICD-10 code where ``9:`` would make it none. A wanted code means
    every code that starts with it; dots and case do not count, for some exports leave the dots out.

    Args:
        wanted: label name to codes.
        exact: a wanted code means itself only (numbers of concepts, of which one may start with another).
    """

    def __init__(self, wanted: Mapping[str, Sequence[str]], *, exact: bool = False) -> None:
        self._wanted = [tuple(map(_normal, codes)) for codes in wanted.values()]
        self._exact = exact
        # Owner to code, and whether it is certain; few codes, many owners.
        self._found: dict[str, dict[str, bool]] = defaultdict(dict)

    def add(self, owner: str, code: str, *, certain: bool = True) -> None:
        """A code of an owner. What is blank says only that this owner's diagnoses were coded."""
        known = self._found[owner]
        if code:
            code = _normal(code)
            known[code] = known.get(code, False) or certain

    def labels(self) -> dict[str, tuple[float | None, ...]]:
        """Owner to a value a label: 1 where it has the diagnosis, ``None`` where only uncertainly, else 0.

        An owner without any coded diagnosis has no label: nothing says that it is healthy.
        """
        return {
            owner: tuple(self._value(codes, wanted) for wanted in self._wanted) for owner, codes in self._found.items()
        }

    def _value(self, codes: Mapping[str, bool], wanted: tuple[str, ...]) -> float | None:
        certain = [sure for code, sure in codes.items() if (code in wanted if self._exact else code.startswith(wanted))]
        return 1.0 if any(certain) else None if certain else 0.0


def _normal(code: str) -> str:
    return code.strip().replace(".", "").casefold()
