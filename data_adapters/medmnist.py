"""MedMNIST v2 and v3, 2D and 3D, read directly from the ``.npz`` files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from forgetmi.data_adapters.npz import NpzArray, NpzItem
from forgetmi.errors import ConfigError, DataError
from forgetmi.records import Label, Record, RecordDataset

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
# Published class names in index order (medmnist/info.py); of other sets the indices are used.
_CLASSES: dict[str, tuple[str, ...]] = {
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil"),
        "platelet",
    ),
    "breastmnist": ("malignant", "normal or benign"),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "nodulemnist3d": ("benign", "malignant"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "organmnist3d": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right"),
        *("lung-left", "spleen", "pancreas"),
    ),
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
    "tissuemnist": (
        *("collecting or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
        "thick ascending limb",
    ),
    "vesselmnist3d": ("vessel", "aneurysm"),
}


@dataclass(frozen=True)
class MedMnist:
    """Reads one file of MedMNIST. There are no patient ids, so only samples can be named; ``chestmnist`` shares
    patients with NIH ChestX-ray14, and no one can tell which.

    Args:
        path: ``pneumoniamnist.npz``, ``organmnist3d_64.npz``, ...; any file with the same arrays will do.
        classes: class names in index order; by default those of the published set, and the indices for others.
    """

    name: ClassVar[str] = "medmnist"
    summary: ClassVar[str] = "MedMNIST npz files, images and volumes, mapped into memory"
    levels: ClassVar[tuple[str, ...]] = ("sample",)
    license_note: ClassVar[str] = "CC BY 4.0, and CC BY-NC 4.0 for dermamnist: cite MedMNIST and the set's source"

    path: Path
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) != len(self.classes)):
            raise ConfigError(["classes: two names or more must be given, each once"])

    def load(self) -> RecordDataset:
        """Index the file; of the pictures only the arrays' headers are read. Values are uint8: [H, W], [H, W, 3], or
        [D, H, W] for a volume.

        Raises:
            DataError: no such file, no archive, arrays that are missing or do not fit together.
        """
        file = Path(self.path)
        labels = {part: self._labels(file, part) for part in _SPLITS}
        images = {part: self._images(file, part, len(labels[part])) for part in _SPLITS}
        shapes = {array.shape[1:] for array in images.values()}
        widths = {values.shape[1] for values in labels.values()}
        if len(widths) > 1 or len(shapes) > 1:
            raise DataError(
                f"the splits of {file.name} do not fit together: shapes {sorted(shapes)}, {sorted(widths)} labels",
                where=str(file.parent),
                expected="one shape, and as many labels in each",
            )
        kind = _kind(shapes.pop(), file.name)
        classes = self._classes(file, np.concatenate(list(labels.values())))
        records = [
            Record(sample, sample, sample, "", {kind: NpzItem(images[part], index)}, label, split)
            for part, split in _SPLITS.items()
            for index, (sample, label) in enumerate(
                zip(sample_ids(part, len(labels[part])), _label_values(labels[part]), strict=True)
            )
        ]
        flag = _flag(file)
        notes = ["no patient ids: each sample is taken for a patient, so one person may stand on both sides"]
        if flag == "chestmnist":
            notes.append("the pictures are NIH ChestX-ray14's: other sets may hold the same patients")
        return RecordDataset(
            records,
            name=file.stem,
            levels=self.levels,
            classes=classes,
            modality_kinds={kind: kind},
            license_note="CC BY-NC 4.0: no commercial use" if flag == "dermamnist" else self.license_note,
            notes=notes,
        )

    def _labels(self, file: Path, part: str) -> np.ndarray:
        """[N, L], whole numbers."""
        array = NpzArray(file, f"{part}_labels")
        if not np.issubdtype(array.dtype, np.integer) or len(array.shape) not in (1, 2) or 0 in array.shape:
            raise DataError(
                f"{file.name}: {array.name!r} has shape {array.shape} and type {array.dtype}",
                where=str(file.parent),
                expected="whole numbers, [N, 1], or [N, L] for several labels",
            )
        return np.array(array.values).reshape(array.shape[0], -1)

    def _images(self, file: Path, part: str, count: int) -> NpzArray:
        array = NpzArray(file, f"{part}_images")
        if array.dtype != np.uint8 or not array.shape or array.shape[0] != count:
            raise DataError(
                f"{file.name}: {array.name!r} has shape {array.shape} and type {array.dtype}",
                where=str(file.parent),
                expected=f"uint8, {count} entries, as there are labels",
            )
        return array

    def _classes(self, file: Path, labels: np.ndarray) -> tuple[str, ...]:
        """Names of the classes, or of the labels where there are several a sample."""
        several = labels.shape[1] > 1
        needed = labels.shape[1] if several else int(labels.max()) + 1
        if labels.min() < 0 or (several and labels.max() > 1):
            expected = "0 or 1" if several else "class indices from 0"
            raise DataError(f"{file.name} holds labels out of range", where=str(file.parent), expected=expected)
        published = _CLASSES.get(_flag(file), ())
        classes = self.classes or (published if len(published) >= needed else ())
        if classes and (len(classes) < needed or (several and len(classes) != needed)):
            raise ConfigError([f"classes: {len(classes)} names for {needed} {'labels' if several else 'classes'}"])
        return classes or tuple(str(index) for index in range(max(needed, 2)))


def sample_ids(part: str, count: int) -> list[str]:
    """``train/0000``, ``train/0001``, ...: the position in the published file, padded so that text sorts as numbers."""
    width = len(str(max(count - 1, 0)))
    return [f"{part}/{index:0{width}d}" for index in range(count)]


def _flag(file: Path) -> str:
    """``organmnist3d`` for ``organmnist3d_64.npz``."""
    return re.sub(r"_\d+$", "", file.stem.lower())


def _kind(sides: Sequence[int], file: str) -> str:
    """``image`` or ``volume``, from the shape of one."""
    if len(sides) == 2 or (len(sides) == 3 and sides[-1] in (1, 3)):
        return "image"
    if len(sides) == 3:
        return "volume"
    raise DataError(f"{file}: pictures of shape {tuple(sides)}", expected="[H, W], [H, W, 3] or [D, H, W]")


def _label_values(labels: np.ndarray) -> list[Label]:
    if labels.shape[1] == 1:
        return [int(value) for value in labels[:, 0].tolist()]
    return [tuple(map(float, row)) for row in labels.tolist()]
