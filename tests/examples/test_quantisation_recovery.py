"""The example of quantisation: made-up texts, a tiny model; what is written and what is chosen by what."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ("lungs", "heart", "clear", "large", "small", "left", "right", "no", "effusion", "normal", "mild", "new")


def texts(count: int) -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    return [(" ".join(draw.choice(WORDS, 3)), " ".join(draw.choice(WORDS, 8))) for _ in range(count)]


@pytest.fixture
def tiny(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    modules = {
        name: importlib.import_module(f"quantisation_recovery.{name}")
        for name in ("regimes", "measures", "run", "page")
    }
    notes, study, size = (importlib.import_module(f"notes_lm.{name}") for name in ("notes", "study", "run"))
    plan = study.ModelPlan
    monkeypatch.setattr(notes, "report_texts", lambda: texts(40))
    monkeypatch.setattr(study, "ModelPlan", lambda: plan(vocabulary=280, width=16, layers=1, heads=2))
    small = size.Size((14, 6, 8), copies=2, epochs=1, retrains=2, forget_epochs=0, n_forget=4, n_resamples=100)
    monkeypatch.setattr(modules["run"], "sizes", lambda quick: small)
    monkeypatch.setattr(modules["measures"], "QUANTISERS", modules["regimes"].QUANTISERS[-2:])
    quick = {name: replace(regime, epochs=1) for name, regime in modules["regimes"].QUICK.items()}
    monkeypatch.setattr(modules["regimes"], "QUICK", quick)
    yield SimpleNamespace(notes=notes, **modules)
    for name in [name for name in sys.modules if name.split(".")[0] in ("quantisation_recovery", "notes_lm")]:
        del sys.modules[name]


def test_the_command_writes_a_table_a_picture_and_no_text(tiny, tmp_path, capsys) -> None:
    assert tiny.run.main(["--quick", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert [(row["start"], row["method"]) for row in document["rows"]] == [
        (start, method) for start in tiny.regimes.STARTS for method in tiny.regimes.QUICK
    ]
    labels = [quantiser.label for quantiser in tiny.measures.QUANTISERS]
    for row in document["rows"]:
        assert list(row["attack"]["mechanism"]) == labels
        assert len(row["attack"]["rows"]) == 3 * len(labels) and len(row["tried"]) == 2
        best = min(row["tried"], key=lambda entry: entry["criterion"])
        assert row["options"] == best["options"]  # chosen by validation, whatever rounding does
        figures = row["attack"]["rows"][0]["figures"]
        assert {"retrained_1", "retrained_2_quantised", "recovery", "returned"} <= set(figures)
    # an original of 4 bits is a fixed point of the quantiser that made it (up to the last bit)
    row = next(row for row in document["rows"] if row["start"] == "4 bits")
    figures = next(f for f in row["attack"]["rows"] if (f["quantiser"], f["metric"]) == ("nf4", "loss"))["figures"]
    assert figures["original"]["value"] == pytest.approx(figures["original_quantised"]["value"], abs=1e-5)
    assert (tmp_path / "results.png").stat().st_size > 1000
    shown = capsys.readouterr().out + (tmp_path / "results.md").read_text() + (tmp_path / "results.json").read_text()
    made = tiny.notes.make_notes(texts(40), (14, 6, 8), n_forget=4, copies=2, seed=0)
    for record in made.probes:
        value = record.value("note")
        assert value["answer"].split(",")[0] not in shown  # the record number
        assert value["prompt"].split(".")[0].removeprefix("Patient: ") not in shown
    assert texts(1)[0][1] not in shown and str(tmp_path) not in (tmp_path / "results.md").read_text()


def test_learning_rates_are_those_of_the_regime(tiny) -> None:
    found = tiny.regimes.FULL["NPO, small steps"].candidates(1e-2)
    assert [options["fit"]["lr"] for options in found] == pytest.approx([6e-5, 2e-4])
    sure = tiny.regimes.FULL["SURE over NPO, large steps"].candidates(1e-2)
    assert [options["options"]["fit"]["lr"] for options in sure] == pytest.approx([1e-3, 3e-3])
    assert all(options["inner"] == "npo" and options["percentile"] == 75.0 for options in sure)
    assert [tiny.page._lr(options) for options in (*found, *sure)] == pytest.approx([6e-5, 2e-4, 1e-3, 3e-3])


def attack_row(low: float | None, start: str = "float", held_out: float = 3.0) -> dict:
    def figure(value: float | None) -> dict:
        return {"value": value, "interval": {"low": low, "high": 0.9}}

    names = ("original", "unlearned", "retrained_1")
    figures = {key: figure(0.5) for name in names for key in (name, f"{name}_quantised")}
    figures |= {"recovery": figure(None if low is None else 0.4), "returned": figure(0.1)}
    rows = [{"quantiser": "int4", "metric": metric, "figures": figures} for metric in ("identity", "accuracy")]
    return {
        "start": start, "method": "m", "tried": [], "options": None, "held_out_nll": held_out, "held_out_limit": 2.6,
        "attack": {"rows": rows, "mechanism": {"int4": {"same_level": 0.5, "kept": 0.9}}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "says"),
    [
        (0.1, "under int4: 50% to 50%, R 0.40 (0.10 to 0.90)"),
        (-0.1, "no R that"),
        (None, "no R that"),
    ],
)
def test_sentences_follow_the_interval(tiny, low, says) -> None:
    (sentence,) = tiny.page.sentences([attack_row(low)])
    assert says in sentence and "destroyed" not in sentence and "Surely" not in sentence
    row = attack_row(low)
    row["attack"]["rows"][0]["figures"]["recovery"]["value"] = 0.05
    assert ("less than 0.1: identity" in tiny.page.sentences([row])[0]) is (says.startswith("under"))
    assert "destroyed" in tiny.page.sentences([attack_row(low, held_out=3.2)])[0]
    assert "**destroyed**" in "\n".join(tiny.page._table([attack_row(low, held_out=3.2)]))
