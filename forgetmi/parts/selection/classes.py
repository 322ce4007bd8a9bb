"""Requests that name whole classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from forgetmi.batch import Loader
from forgetmi.errors import MethodError
from forgetmi.parts.selection.relabelled import labels_of


def forgotten_classes(loader: Loader, forget: Sequence[int], retain: Sequence[int], *, method: str) -> list[int]:
    """The classes of the forget records, of which no retain record may be.

    Raises:
        MethodError: labels are no single classes, or the request is not one for whole classes.
    """
    labels = labels_of(loader, forget)
    if labels.ndim != 1:
        raise MethodError(f"{method} forgets whole classes, and these records have several labels each")
    classes = labels.unique()
    kept = int(torch.isin(labels_of(loader, retain), classes).sum())
    if kept:
        raise MethodError(
            f"{method} forgets whole classes, and {kept} retain records are of the classes of the forget records",
            expected="a request for every record of some classes",
            fix="choose a method for single records or patients: forgetmi ls methods",
        )
    return [int(label) for label in classes]
