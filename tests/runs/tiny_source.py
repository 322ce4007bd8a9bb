"""A source on disk: a manifest of pictures and words, a request, a config. Every id holds the word SECRET."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = ("clear", "lungs", "heart", "large", "fluid", "left", "right", "small")
FORGOTTEN = tuple(f"SECRET-p{n:02d}" for n in (1, 4, 6, 9))


def write_source(folder: Path) -> Path:
    """48 patients, one or two records each; the request names four. Returns the folder."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(72):
        patient = n % 48
        label = patient % 2
        words = " ".join([WORDS[label], *draw.choice(WORDS, size=4)])
        pixels = np.clip(draw.normal(100 + 50 * label, 20, size=(8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"film{n}.png")
        split = "train" if patient < 28 else "validation" if patient < 34 else "test"
        rows.append((f"SECRET-s{n:02d}", f"SECRET-p{patient:02d}", f"film{n}.png", words, ("no", "yes")[label], split))
    with (folder / "records.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample", "patient", "file", "words", "label", "split"), *rows])
    with (folder / "forget.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id",), *((patient,) for patient in FORGOTTEN)])
    return folder


def tiny_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings that fit the source; ``section__key=value`` changes them."""
    settings: dict[str, Any] = {
        "data": {
            "adapter": "manifest",
            "path": str(folder / "records.csv"),
            "columns": {"sample_id": "sample", "patient_id": "patient", "label": "label", "split": "split"},
            "modalities": {
                "image": {"column": "file", "kind": "image"},
                "text": {"column": "words", "kind": "text"},
            },
        },
        "request": {"file": str(folder / "forget.csv")},
        "model": {
            "modalities": {"image": {"size": 8}, "text": {"vocab_size": 64, "max_length": 8, "min_frequency": 1}},
            "encoders": {
                "image": {"name": "small_resnet", "widths": [4]},
                "text": {"name": "small_transformer", "dim": 8, "layers": 1, "heads": 2},
            },
            "dim": 8,
        },
        "training": {"epochs": 2, "batch_size": 16},
        "unlearning": {"method": "fine_tune", "fit": {"epochs": 1, "batch_size": 16}},
        "audit": {"retrains": 2, "n_bootstrap": 200, "min_patients": 2},
        "run": {"folder": str(folder / "run"), "device": "cpu", "key_file": str(folder / "key" / "site.key")},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            settings[section] = {**settings[section], key: value}
        else:
            settings[section] = value
    return settings
