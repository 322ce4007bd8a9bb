"""Small language models and their scores by other people's code; tests skip where they are not beside the repository.

Their scores from single tokens (min-k) and from gradients leave out the last token of each answer; loss, zlib and
reference do not.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from forgetmi.batch import Loader
from forgetmi.modalities.tokens import TokenModality
from forgetmi.records import Record, RecordDataset

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
TOKENS = {"forget": "forget10|question|answer", "holdout": "holdout10|question|answer"}


def _json(*names):
    if not FOLDER.is_dir():
        pytest.skip(f"no reference values beside the repository ({FOLDER.parent.name}/{FOLDER.name})")
    return json.loads(FOLDER.joinpath(*names).read_text(encoding="utf-8"))


@cache
def published_model(role):
    """``target``, ``current`` or ``retain``."""
    if not FOLDER.is_dir():
        pytest.skip(f"no reference values beside the repository ({FOLDER.parent.name}/{FOLDER.name})")
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(FOLDER / "inputs" / f"gpt2_{role}").eval()


@cache
def loader_of(part, *, last=True):
    """Its records, the answer's tokens marked, with the last one or without."""
    rows = _json("inputs", "tokenized.json")[TOKENS[part]]
    values = []
    for row in rows:
        answer = [label != -100 for label in row["labels"]]
        answer[-1] = last
        values.append({"ids": row["input_ids"], "answer": answer})
    records = [
        Record(f"s{n:02d}", f"s{n:02d}", f"{part}{n:02d}", "h", {"tokens": value}, None, "train")
        for n, value in enumerate(values)
    ]
    dataset = RecordDataset(records, name=part, levels=("sample",), modality_kinds={"tokens": "tokens"})
    return Loader(dataset, {"tokens": TokenModality(pad_id=0)})


def published_batches(part, size):
    """Batches of a part's records, in order, without the last tokens."""
    loader = loader_of(part, last=False)
    return loader.batches(range(len(loader.dataset)), size)


def scores(role, name, part):
    """What it gave each record of a part; up = less likely a member."""
    found = _json("metrics_models.json")["gpt2"][role][name][part]["value_by_index"]
    return np.array([found[str(n)]["score"] for n in range(len(found))])


def published_auc(role, name):
    """How often a held-out record scored above a forget record."""
    return _json("metrics_models.json")["gpt2"][role][name]["auc"]


def answers(part):
    """The answers' texts."""
    folder = "forget10" if part == "forget" else "holdout10"
    return [row["answer"] for row in _rows("inputs", "locuslab", "TOFU", folder, "train.json")]


def _rows(*names):
    if not FOLDER.is_dir():
        pytest.skip(f"no reference values beside the repository ({FOLDER.parent.name}/{FOLDER.name})")
    text = FOLDER.joinpath(*names).read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
