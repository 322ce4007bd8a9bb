"""The example of notes: made-up texts, a tiny model; and the arithmetic of its table."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from forgetmi.models.tokenizer import END, PAD, train_lm_tokenizer
from forgetmi.training.options import FitOptions

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ("lungs", "heart", "clear", "large", "small", "left", "right", "no", "effusion", "normal", "mild", "new")


def texts(count: int) -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    return [(" ".join(draw.choice(WORDS, 3)), " ".join(draw.choice(WORDS, 8))) for _ in range(count)]


@pytest.fixture
def example(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("notes", "settings", "study", "table", "run")
    yield SimpleNamespace(**{name: importlib.import_module(f"notes_lm.{name}") for name in names})
    for name in [name for name in sys.modules if name.split(".")[0] == "notes_lm"]:
        del sys.modules[name]


@pytest.fixture
def tiny(example, monkeypatch) -> SimpleNamespace:
    size = example.run.Size((14, 6, 8), copies=2, epochs=1, retrains=2, forget_epochs=1, n_forget=4, n_resamples=100)
    monkeypatch.setattr(example.run, "QUICK", size)
    monkeypatch.setattr(example.notes, "report_texts", lambda: texts(40))
    plan = example.study.ModelPlan
    monkeypatch.setattr(
        example.study, "ModelPlan", lambda folder=None: plan(folder, vocabulary=280, width=16, layers=1, heads=2)
    )
    return example


def test_the_command_writes_a_table_a_picture_and_no_text(tiny, tmp_path, capsys) -> None:
    given = ["--quick", "--out", str(tmp_path), "--threads", "1", "--methods", "npo,random_share,unsir"]
    assert tiny.run.main(given) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    by = {row["model"]: row for row in document["rows"]}
    assert set(by) == {"original", "retrained 1", "retrained 2", "npo", "random_share", "unsir"}
    assert "reason" in by["unsir"]
    for name in ("original", "npo"):
        assert by[name]["attacks"]["calibrated"]["low"] <= by[name]["attacks"]["calibrated"]["high"]
        assert 0 <= by[name]["identity"] <= 1 and by[name]["cpu_seconds"] > 0
    assert len(by["npo"]["tried"]) == 2
    assert (tmp_path / "results.png").stat().st_size > 1000
    shown = capsys.readouterr().out + (tmp_path / "results.md").read_text() + (tmp_path / "results.json").read_text()
    made = tiny.notes.make_notes(texts(40), (14, 6, 8), n_forget=4, copies=2, seed=0)
    for record in made.probes:
        value = record.value("note")
        assert value["answer"].split(",")[0] not in shown  # the record number
        assert value["prompt"].split(".")[0].removeprefix("Patient: ") not in shown
    assert texts(1)[0][1] not in shown
    assert str(tmp_path) not in (tmp_path / "results.md").read_text()


def model_folder(folder: Path) -> Path:
    tokenizer = train_lm_tokenizer([" ".join(pair) for pair in texts(40)], 280)
    config = GPT2Config(vocab_size=280, n_positions=256, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("large", "words"), [(10**9, "all weights trained"), (1000, "by an adapter (LoRA)")], ids=["small", "large"]
)
def test_the_same_command_takes_a_folder(tiny, tmp_path, monkeypatch, large: int, words: str) -> None:
    folder = model_folder(tmp_path / "lm")
    monkeypatch.setattr(tiny.study, "LARGE", large)
    given = ["--quick", "--out", str(tmp_path / "out"), "--threads", "1", "--methods", "npo,ta"]
    assert tiny.run.main([*given, "--model", str(folder)]) == 0
    page = (tmp_path / "out" / "results.md").read_text()
    assert f"from a local folder, {words}" in page
    assert ("| ta | no model: ta changes the weights themselves" in page) == (large == 1000)
    assert "--model lm" in page and str(tmp_path) not in page


def test_parameters_are_counted_from_headers(example, tmp_path) -> None:
    # tied: the head is the embedding; positions; 12 d^2 + 13 d a layer; the last norm
    assert example.study.parameters_of(model_folder(tmp_path / "lm")) == 280 * 16 + 256 * 16 + 12 * 256 + 13 * 16 + 32


def test_an_unknown_method_is_an_error_before_anything_is_trained(example, capsys) -> None:
    assert example.run.main(["--quick", "--methods", "npoo"]) == 1
    assert "npo" in capsys.readouterr().err


def test_identities_differ_and_only_the_forgotten_are_copied(example) -> None:
    made = example.notes.make_notes(texts(60), (30, 10, 20), n_forget=5, copies=3, seed=1)
    again = example.notes.make_notes(texts(60), (30, 10, 20), n_forget=5, copies=3, seed=1)
    assert [r.value("note") for r in made.notes] == [r.value("note") for r in again.notes]
    prompts = {r.patient_id: r.value("note")["prompt"].split(". Indication")[0] for r in made.notes}
    assert len(set(prompts.values())) == len(prompts) == 60
    for note, probe in zip(made.notes, made.probes, strict=True):
        assert note.sample_id == probe.sample_id
        assert note.value("note")["answer"].startswith(probe.value("note")["answer"] + " ")
    counts = {who: sum(r.patient_id == who for r in made.notes) for who in prompts}
    assert {who for who, n in counts.items() if n == 3} == set(made.forgotten)
    assert sorted(set(counts.values())) == [1, 3] and len(made.forgotten) == 5
    assert {r.split for r in made.notes if r.patient_id in made.forgotten} == {"train"}


def test_the_tokenizer_never_saw_the_forgotten(example) -> None:
    made = example.notes.make_notes(texts(40), (14, 6, 8), n_forget=4, copies=2, seed=0)

    def vocabulary(notes) -> dict[str, int]:
        study = example.study.Study(
            notes, example.study.ModelPlan(vocabulary=300), FitOptions(epochs=1), device="cpu", seed=0
        )
        return study.tokenizer.backend.get_vocab()

    changed = []
    for record in made.notes:
        if record.patient_id in made.forgotten:
            record = replace(record, modalities={"note": {"prompt": "zebra zebra", "answer": "zebra zebra zebra"}})
        changed.append(record)
    assert vocabulary(made) == vocabulary(replace(made, notes=made.notes.with_records(changed)))


def test_a_probe_asks_for_the_notes_own_tokens(example) -> None:
    made = example.notes.make_notes(texts(40), (14, 6, 8), n_forget=4, copies=2, seed=0)
    plan = example.study.ModelPlan(vocabulary=300)
    study = example.study.Study(made, plan, FitOptions(epochs=1), device="cpu", seed=0)
    for index in range(len(made.notes)):
        asked = study.probes.batch([index]).inputs["note"]["input_ids"][0]
        note = study.loader.batch([index]).inputs["note"]["input_ids"][0]
        assert asked[:-1].tolist() == note[: len(asked) - 1].tolist() and asked[-1] == study.tokenizer.eos_id


def row(identity: float, forget: float, test: float, auc: float, nll: float = 3.0, **more) -> dict:
    loss = {"value": auc, "low": auc - 0.05, "high": auc + 0.05}
    return {"identity": identity, "verbatim": 0.0, "forget_accuracy": forget, "test_accuracy": test, "auc": auc,
            "test_nll": nll, "forget_nll": 3.0, "attacks": {"loss": loss, "calibrated": loss}, "cpu_seconds": 10.0,
            **more}  # fmt: skip


def test_gap_flags_and_order_by_hand(example) -> None:
    table = example.table
    retrained = [row(0.2, 0.4, 0.4, 0.5), row(0.4, 0.4, 0.4, 0.6)]
    original = row(1.0, 1.0, 0.4, 1.0)
    assert table.gap(original, retrained) == pytest.approx((0.7 + 0.6 + 0.0 + 0.45) / 4)
    unlearned = {
        "good": row(0.3, 0.5, 0.4, 0.55),
        "exact but destroyed": row(0.3, 0.4, 0.4, 0.55, nll=3.6),
        "too much": row(0.0, 0.1, 0.4, 0.1),
        "nothing done": row(1.0, 1.0, 0.4, 1.0),
    }
    chosen = {"options": {}, "criterion": 0.0}
    rows = table.rows_of(original, retrained, {k: {**v, **chosen} for k, v in unlearned.items()}, {"none": "because"})
    by = {r["model"]: r for r in rows}
    assert by["good"]["flags"] == [] and by["good"]["gap"] == pytest.approx(0.025)
    assert by["exact but destroyed"]["flags"] == ["destroyed"] and not by["exact but destroyed"]["ranked"]
    assert by["exact but destroyed"]["gap"] < by["good"]["gap"]
    assert by["too much"]["flags"] == ["over-forgets"]
    assert by["nothing done"]["flags"] == ["remembers", "writes identities", "no nearer than the original"]
    assert by["original"]["flags"] == ["remembers", "writes identities"]
    assert [r["model"] for r in rows if r.get("ranked")] == ["good", "too much", "nothing done"]
    assert by["retrained 1"]["gap"] == pytest.approx((0.2 + 0.1) / 4)
    about = {
        "machine": "2 CPU cores",
        "device": "cuda",
        "threads": 1,
        "torch": "2",
        "model": "a model",
        "notes": "notes",
    }
    document = {"command": "run", "about": {**about, "n_forget": 4, "copies": 2}, "rows": [], "cpu_seconds": 1.0}
    for clock, device in (("| 40 (200%) |", "cuda"), ("| 10 (100%) |", "cpu")):
        document["about"]["device"] = device
        timed = [{**r, "seconds": 20.0 if "retrained" in r["model"] else 40.0} for r in rows]
        assert clock in table.page({**document, "rows": timed, "seconds": 1.0})
    said = "\n".join(table.sentences(rows))
    assert "Nearest to retrained: good" in said and "Destroyed: exact but destroyed." in said
