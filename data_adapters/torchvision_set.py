"""MNIST, Fashion-MNIST and CIFAR-10 from a local folder, read by torchvision. Nothing is downloaded."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from forgetmi.data_adapters.medmnist import sample_ids
from forgetmi.errors import DataError
from forgetmi.records import Record, RecordDataset
from forgetmi.splits import draw_splits

_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
_LICENSES = {"mnist": "CC BY-SA 3.0", "fashion_mnist": "MIT", "cifar10": "none stated: cite Krizhevsky (2009)"}
_IDX = tuple(f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))


@dataclass(frozen=True)
class TorchvisionSet:
    """Reads one of torchvision's sets. There are no patients: each picture stands for itself.

    The sets are small (at most 180 MB) and their files hold all pictures at once: they are read as a whole.

    Args:
        dataset: ``mnist``, ``fashion_mnist`` or ``cifar10``.
        root: the folder that torchvision would be given (``MNIST/raw/`` or ``cifar-10-batches-py/`` below it). For the
            first two also the folder of the four idx files themselves, gzipped or not: Debian's package
            dataset-fashion-mnist puts them into ``/usr/share/datasets/fashion-mnist``.
        validation: share of the training pictures that is drawn for validation; the sets have none.
        seed: of that draw.
    """

    name: ClassVar[str] = "torchvision_set"
    summary: ClassVar[str] = "MNIST, Fashion-MNIST or CIFAR-10 from a local folder"
    levels: ClassVar[tuple[str, ...]] = ("sample",)
    license_note: ClassVar[str] = "MNIST: CC BY-SA 3.0; Fashion-MNIST: MIT; CIFAR-10: none stated, cite its authors"

    dataset: Literal["mnist", "fashion_mnist", "cifar10"]
    root: Path
    validation: float = 0.1
    seed: int = 0

    def load(self) -> RecordDataset:
        """Read the set. Values are uint8, [H, W] or [H, W, 3].

        Raises:
            DataError: a file is missing or is not what torchvision expects (CIFAR-10: checked against the published
                checksums before it is opened, for its files are pickles).
            ConfigError: the share of validation does not fit the number of pictures.
        """
        root = Path(self.root)
        if self.dataset == "cifar10":
            parts, classes = self._read(root, root / "cifar-10-batches-py")
        else:
            with tempfile.TemporaryDirectory(prefix="forgetmi-") as scratch:
                source = self._idx_folder(root)
                _unpack(source, Path(scratch) / _CLASSES[self.dataset] / "raw")
                parts, classes = self._read(Path(scratch), source)
        ids = [identifier for split, images, _ in parts for identifier in sample_ids(split, len(images))]
        published = [split for split, images, _ in parts for _ in images]
        splits = draw_splits(ids, validation=self.validation, test=0.0, seed=self.seed, published=published)
        images = [image for _, images, _ in parts for image in images]
        labels = [label for *_, labels in parts for label in labels]
        return RecordDataset(
            (
                Record(i, i, i, "", {"image": image}, label, split)
                for i, image, label, split in zip(ids, images, labels, splits, strict=True)
            ),
            name=self.dataset,
            levels=self.levels,
            classes=classes,
            modality_kinds={"image": "image"},
            license_note=_LICENSES[self.dataset],
            notes=["no patient ids: each picture is taken for a patient"],
        )

    def _read(self, root: Path, source: Path) -> tuple[list[tuple[str, Any, list[int]]], tuple[str, ...]]:
        """(split, pictures, labels) of the training and the test part, and the classes."""
        import torchvision.datasets

        kind = getattr(torchvision.datasets, _CLASSES[self.dataset])
        parts = []
        for split in ("train", "test"):
            try:
                held = kind(root, train=split == "train", download=False)
                images, labels = np.asarray(held.data), np.asarray(held.targets).tolist()
            except Exception as error:
                # torchvision asserts, indexes and unpickles its way through the files: whatever it raises means that
                # they are not what was published.
                raise DataError(
                    f"torchvision cannot read {self.dataset} ({type(error).__name__}: {error})",
                    where=str(source),
                    expected=self._expected(),
                    fix="copy the published files there; this package downloads nothing",
                ) from error
            in_range = all(0 <= label < len(held.classes) for label in labels)
            if len(images) != len(labels) or not labels or not in_range or images.ndim not in (3, 4):
                raise DataError(
                    f"the {split} part of {self.dataset} has {len(images)} pictures of shape {images.shape[1:]} and "
                    f"{len(labels)} labels{'' if in_range else ', some of no class'}",
                    where=str(source),
                    expected="as many labels as pictures",
                )
            parts.append((split, images, labels))
        return parts, tuple(held.classes)

    def _idx_folder(self, root: Path) -> Path:
        inner = root / _CLASSES[self.dataset] / "raw"
        for folder in (inner, root):
            if all(_plain_or_zipped(folder, name) for name in _IDX):
                return folder
        raise DataError(
            f"{self.dataset} is not there",
            where=str(root),
            expected=self._expected(),
            fix="correct the option `root`; this package downloads nothing",
        )

    def _expected(self) -> str:
        if self.dataset == "cifar10":
            return "cifar-10-batches-py/data_batch_1 to data_batch_5, test_batch and batches.meta, as published"
        return f"{', '.join(_IDX)} (each with or without .gz), here or in {_CLASSES[self.dataset]}/raw"


def _plain_or_zipped(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _unpack(source: Path, target: Path) -> None:
    """The four idx files, unzipped where they are zipped, into a scratch folder: torchvision reads no others."""
    target.mkdir(parents=True)
    for name in _IDX:
        path = _plain_or_zipped(source, name)
        assert path is not None  # _idx_folder looked
        try:
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rb") as packed, (target / name).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path.name} cannot be unpacked: {error}", where=str(source), fix="copy it again; it may be cut short"
            ) from error
