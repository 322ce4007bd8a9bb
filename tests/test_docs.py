"""What the documentation shows is what the package reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

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
