"""What the documentation shows is what the package reads."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from forgetmi.audit.exposure_rule import ExposureOptions
from forgetmi.audit.signals_file import read_signals
from forgetmi.config import load_config
from forgetmi.data_adapters import ADAPTERS
from forgetmi.settings import read_settings
from tests.runs.tiny_source import tiny_settings, write_source

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "data.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", DATA.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
REST = {
    "data": {"adapter": "indiana_demo"},
    "request": {"draw": {"patients": 3}},
    "model": {
        "modalities": {"image": {"size": 8}},
        "encoders": {"image": {"name": "small_resnet", "widths": [4]}},
        "dim": 8,
    },
    "unlearning": {"method": "fine_tune"},
}


def _name(block):
    return (yaml.safe_load(block).get("data") or {}).get("adapter", "request")


@pytest.mark.parametrize("block", BLOCKS, ids=map(_name, BLOCKS))
def test_every_block_is_a_config(block, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(block)
    given = read_settings(path).values
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({**REST, **given}))
    config = load_config(tmp_path / "whole.yaml")
    assert config.adapter.name == given.get("data", REST["data"])["adapter"]
    assert len(block.splitlines()) <= 13


def test_every_adapter_is_shown():
    assert {_name(block) for block in BLOCKS} - {"request"} == set(ADAPTERS)


def test_what_a_request_can_name_and_the_licence_are_said_for_each():
    text = DATA.read_text(encoding="utf-8")
    sections = [part for part in re.split(r"^##+ ", text, flags=re.MULTILINE) if "adapter:" in part]
    for part in sections:
        title = part.splitlines()[0]
        assert re.search(r"request can\s+name", part), title
        assert "*Licence:*" in part, title


def _readme(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block


def test_the_readmes_config_is_one(tmp_path):
    (tmp_path / "run.yaml").write_text(_readme("yaml"))
    config = load_config(tmp_path / "run.yaml")
    assert (config.adapter.name, config.method.name, config.retrains) == ("manifest", "forget_mi", 5)
    assert config.training.epochs == 20


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny_settings(source)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(_readme("python"), names)
    assert names["result"].decision in ("pass", "fail", "inconclusive")
    assert names["batch"].labels.shape == (8,)


SIGNALS = re.findall(
    r"^### ([^\n]+)\n\n```python\n(.*?)^```$", (ROOT / "docs" / "signals.md").read_text(), re.MULTILINE | re.DOTALL
)


def _people(n=40):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 3))
    return {
        "X": features,
        "y": (features[:, 0] + rng.normal(size=n) > 0).astype(int),
        "patient": [f"p{i}" for i in range(n)],
        "in_training": np.arange(n) < n // 2,
    }


def _names(title):
    """What each export takes for granted."""
    if title == "scikit-learn":
        return _people()
    if title == "PyTorch":
        import torch

        return {**_people(), "model": torch.nn.Linear(3, 2)}
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=32, n_embd=8, n_layer=1, n_head=2)).eval()
    texts = [("a film of the chest", "p0", "member"), ("no finding", "p1", "nonmember")]
    return {"model": model, "encode": lambda text: list(text.encode()), "texts": texts}


@pytest.mark.parametrize(("title", "block"), SIGNALS, ids=[title for title, _ in SIGNALS])
def test_every_export_of_signals_runs_and_is_read(title, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = _names(title)
    exec(block, names)
    read = read_signals(tmp_path / "signals.csv")
    assert len(block.splitlines()) <= 11
    assert {"forget", "test"} == set(read.parts)
    if title == "A language model":
        import torch

        tokens = torch.tensor([names["encode"]("no finding")])
        with torch.inference_mode():
            logits = names["model"](input_ids=tokens).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
        assert read.signals("target", "test")["loss"] == pytest.approx([float(expected)], rel=1e-5)
    else:
        assert read.kind == "logits"
        assert sum(len(part.patients) for part in read.parts.values()) == 40


def test_the_example_of_signals_is_the_one_that_the_page_describes():
    text = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")
    example = (ROOT / "forgetmi" / "cli" / "templates" / "signals.csv").read_text(encoding="utf-8")
    header = next(line for line in example.splitlines() if not line.startswith("#")).split(",")
    for column in header:
        assert f"`{column}`" in text or column.startswith(("p_", "group_"))
    options = set(re.findall(r"\(`([a-z_]+)`\)", text))
    assert options <= {field.name for field in dataclasses.fields(ExposureOptions)}
