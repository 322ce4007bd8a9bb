"""What both sides are measured on: random pixels, and chest film reports where they are installed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forgetmi.data_adapters.openi import read_reports
from forgetmi.data_adapters.rendered_films import package_file
from forgetmi.errors import MissingDependencyError
from forgetmi.modalities.text import TextModality
from forgetmi.models.forget_mi_reference import ForgetMIConfig
from forgetmi.models.tokenizer import train_tokenizer
from forgetmi.records import Record, RecordDataset

MAX_TOKENS = 320
"""The published length, to which the published code pads every text."""


@dataclass(frozen=True)
class Setting:
    """What both sides share.

    Attributes:
        records: forget records of an epoch, which sees as many retain records.
        batch_size: forget records, and retain records, of a batch.
        threads: of torch.
        device: ``cpu`` or ``cuda``.
        image_size: pixels of a side.
        network: settings of :class:`ForgetMIConfig`; nothing is the published size.
        seed: of records, weights and noise.
    """

    records: int = 8
    batch_size: int = 4
    threads: int = 2
    device: str = "cpu"
    image_size: int = 2048
    network: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """The first half of the records is to be forgotten, the second retained."""

    dataset: RecordDataset
    text: TextModality
    source: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(self.text.prepare(record.value("text"))) for record in self.dataset]


def make_data(setting: Setting) -> Data:
    """Records drawn from the seed, and a tokenizer trained on all the texts."""
    texts, source = _texts(setting.seed)
    tokenizer = train_tokenizer(texts, ForgetMIConfig(**setting.network).vocab_size)
    draw = np.random.default_rng(setting.seed)
    shape = (setting.image_size, setting.image_size)
    chosen = draw.choice(len(texts), size=2 * setting.records, replace=False).tolist()
    records = [
        Record(
            f"s{n:05d}", f"st{n:05d}", f"p{n:05d}", "h",
            {"image": draw.integers(0, 256, shape, dtype=np.uint8), "text": texts[index]}, n % 4, "train",
        )
        for n, index in enumerate(chosen)
    ]  # fmt: skip
    dataset = RecordDataset(
        records,
        name="benchmark",
        levels=("patient", "sample"),
        classes=("none", "vascular congestion", "interstitial edema", "alveolar edema"),
        modality_kinds={"image": "image", "text": "text"},
    )
    return Data(dataset, TextModality(tokenizer, MAX_TOKENS), source)


def _texts(seed: int) -> tuple[list[str], str]:
    """FINDINGS and IMPRESSION of the Indiana reports, or made-up words in texts about as long and as unlike."""
    try:
        reports, _ = read_reports(package_file("NLMCXR_reports.tgz"))
    except MissingDependencyError:
        draw = np.random.default_rng(seed)
        sizes = draw.lognormal(np.log(36), 0.5, 4000).astype(int) + 2
        return [" ".join(f"w{w}" for w in draw.integers(0, 2000, size)) for size in sizes], "made-up words"
    texts = (" ".join(filter(None, (r.sections.get(s, "") for s in ("findings", "impression")))) for r in reports)
    return [text for text in texts if text], "Indiana reports, findings and impression"
