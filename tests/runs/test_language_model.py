"""A run on a language model: a small GPT on notes, trained, made to forget and retrained; every mistake is named."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.config import load_config
from forgetmi.errors import AuditError, ConfigError, DataError, MethodError, ModelError
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.models.persistence import load_model
from forgetmi.runs import pipeline
from forgetmi.runs.prepare import prepare

WORDS = ("clear", "lungs", "heart", "large", "fluid", "left", "right", "small", "no", "new")
GPT = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}


def write_notes(folder: Path, *, long_at: int | None = None) -> Path:
    draw = np.random.default_rng(0)
    rows = []
    for n in range(30):
        patient = n // 2
        words = " ".join(draw.choice(WORDS, size=40 if n == long_at else 6))
        split = "train" if patient < 10 else "validation" if patient < 12 else "test"
        rows.append((f"SECRET-s{n:02d}", f"SECRET-p{patient:02d}", words, split))
    with (folder / "notes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample", "patient", "words", "split"), *rows])
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "data": {
            "adapter": "manifest",
            "path": str(folder / "notes.csv"),
            "columns": {"sample_id": "sample", "patient_id": "patient", "split": "split"},
            "modalities": {"note": {"column": "words", "kind": "text"}},
            "label_kind": "none",
        },
        "request": {"level": "patient", "ids": ["SECRET-p01", "SECRET-p04"]},
        "task": {"name": "causal_lm"},
        "model": {"kind": "causal_lm", "modalities": {"note": {"vocab_size": 280}}, "config": GPT},
        "training": {"epochs": 2, "batch_size": 8, "lr": 1e-2},
        "unlearning": {"method": "gradient_ascent", "fit": {"epochs": 1, "lr": 1e-2}},
        "audit": {"retrains": 2},
        "run": {"folder": str(folder / "run"), "device": "cpu", "key_file": str(folder / "key" / "site.key")},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        found[section] = {**found[section], key: value} if key else value
    return found


def nll(folder: Path, name: str, prepared) -> float:
    model = load_model(folder / "run" / "models" / name).model
    with torch.no_grad():
        return float(prepared.task.loss(model, prepared.loader.batch(list(prepared.partition.forget))))


def test_from_notes_to_the_unlearned_and_retrained_models(tmp_path):
    config = load_config(settings(write_notes(tmp_path)))
    result = pipeline.run(config, until="retrained", progress=False)
    prepared = prepare(config)
    assert prepared.task.modality == "note" and prepared.longest > 4
    values = {name: nll(tmp_path, name, prepared) for name in ("original", "unlearned", "retrained-0", "retrained-1")}
    assert values["unlearned"] > values["original"] and values["retrained-0"] > values["original"]
    stored = load_model(result.folder / "models" / "unlearned")
    assert (
        stored.modalities["note"].prepare("clear lungs").ids.tolist()
        == prepared.modalities["note"].prepare("clear lungs").ids.tolist()
    )
    assert not any("SECRET" in file.read_text(errors="ignore") for file in result.folder.rglob("*.json*"))


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A whole run: the folder, and the evidence."""
    folder = tmp_path_factory.mktemp("lm")
    language = {
        "quantisers": ["int4"],
        "relearning": {"steps": [0, 2], "n_records": 2},
        "extraction": {"templates": ["chart"], "max_new_tokens": 6, "alternatives": 15},
        "hierarchy": {"max_new_tokens": 6},
        "records": 4,
        "max_new_tokens": 6,
    }
    audit = {"retrains": 2, "n_bootstrap": 200, "language": language}
    three = ["SECRET-p01", "SECRET-p04", "SECRET-p07"]
    config = load_config(settings(write_notes(folder), audit=audit, request__ids=three))
    result = pipeline.run(config, progress=False)
    return config, result


def test_a_whole_run_ends_with_an_audit_and_its_report(audited):
    _, result = audited
    evidence = result.evidence
    assert evidence["task"]["kind"] == "causal_lm" and evidence["task"]["n_classes"] == 280
    assert evidence["verdict"]["decision"] in ("fail", "inconclusive")  # three patients are too few for a pass
    judged = {"extraction_strength_auc", "quantised_int4", "template_best_answer_auc", "relearned_2_auc"}
    assert judged <= set(evidence["criteria"]) and "relearned_2" not in evidence["criteria"]
    # no identifier stands in these notes: that is no doubt about the model
    assert not any("identifiers" in key or "exposure" in key for key in evidence["criteria"])
    assert not any("cannot be judged" in reason for reason in evidence["verdict"]["reasons"])
    rows = evidence["comparison"]
    groups = {row["group"] for row in rows.values()}
    assert {"memorisation", "extraction", "quantisation", "relearning", "hierarchical"} <= groups
    assert rows["relearned_2"]["original"]["counts"]["n_without_value"] == 2  # those that were taught
    assert set(rows["loss_auc"]["controls"]) == {"destroyed", "random_share"}
    # noise knows nothing: its loss on the forgotten is far above the original's
    forget = rows["forget_cross_entropy"]
    assert forget["controls"]["destroyed"]["value"] > forget["original"]["value"] + 0.1
    assert forget["original"]["value"] < min(forget["retrained"]["values"])
    page = result.report.read_text()
    for words in ("attacks that bring knowledge back", "Quantisation", "random weights", "a random share unlearned"):
        assert words in page
    assert "SECRET" not in page and "SECRET" not in (result.folder / "model_card.md").read_text()


def test_an_audit_that_is_done_is_kept_and_the_same_again(audited):
    config, result = audited
    before = (result.folder / "evidence.json").read_text()
    again = pipeline.run(config, resume=True, progress=False)
    assert again.evidence == result.evidence and (result.folder / "evidence.json").read_text() == before
    anew = pipeline.run(config, resume=True, progress=False, audit_again=True)
    assert {k: v["value"] for k, v in _values(anew)} == {k: v["value"] for k, v in _values(result)}


def _values(result):
    return [(key, row["unlearned"]) for key, row in result.evidence["comparison"].items()]


def test_another_text_under_the_same_ids_is_other_data(tmp_path):
    first = prepare(load_config(settings(write_notes(tmp_path))))
    notes = (tmp_path / "notes.csv").read_text().replace("clear", "small")
    (tmp_path / "notes.csv").write_text(notes)
    assert prepare(load_config(settings(tmp_path))).data_digest != first.data_digest


def test_shadow_models_of_a_language_model_are_refused_before_anything_is_trained(tmp_path):
    config = load_config(settings(write_notes(tmp_path), audit={"retrains": 2, "shadows": 4}))
    with pytest.raises(AuditError, match="shadow models are for classifiers"):
        pipeline.run(config, progress=False)
    assert not (tmp_path / "run" / "models").exists()


def test_all_that_is_wrong_with_the_questions_is_said_at_once(tmp_path):
    language = {
        "quantisers": ["int5"],
        "min_k": 0,
        "relearning": {"steps": [5, 2]},
        "extraction": {"alternatives": 0},
        "control": [],
    }
    with pytest.raises(ConfigError) as caught:
        load_config(settings(write_notes(tmp_path), audit={"language": language}))
    said = str(caught.value)
    for words in (
        "int5",
        "min_k",
        "audit.language.relearning: steps must rise",
        "alternatives",
        "unknown option 'control'",
        "audit.language",
    ):
        assert words in said


@pytest.mark.parametrize("merge", [False, True])
def test_unlearning_in_an_adapter_warns_that_deleting_it_restores_the_original_or_merges_it(merge, tmp_path, caplog):
    lora = {"method": "npo", "fit": {"epochs": 1, "lr": 1e-2}, "lora": {"r": 2, "merge": merge}}
    config = load_config(settings(write_notes(tmp_path), unlearning=lora))
    with caplog.at_level("WARNING", logger="forgetmi"):
        result = pipeline.run(config, until="unlearned", progress=False)
    warned = [record for record in caplog.records if "deletes the adapter" in record.message]
    assert len(warned) == (0 if merge else 1)
    original, unlearned = (load_model(result.folder / "models" / name).model for name in ("original", "unlearned"))
    assert unlearned.has_adapter is not merge and not original.has_adapter
    if not merge:  # what the warning says is true
        off = dict(unlearned.without_adapter().named_parameters())
        assert all(torch.equal(off[name], p) for name, p in original.named_parameters())
    log = (result.folder / "log.jsonl").read_text()
    assert "all other weights are the original's own" in log
    with pytest.raises(MethodError, match="changes the weights themselves"):
        pipeline.run(
            settings(tmp_path, unlearning={"method": "ssd", "lora": {}}, run__folder=str(tmp_path / "other")),
            until="unlearned", progress=False,
        )  # fmt: skip


def test_an_original_trained_with_lora_from_a_folder(tmp_path):
    """The adapter is trained on the folder's weights; retrained models start from the same folder."""
    write_notes(tmp_path)
    first = prepare(load_config(settings(tmp_path)))
    base = first.fresh_model(3)
    base.lm.save_pretrained(tmp_path / "base")
    first.modalities["note"].tokenizer.for_transformers.save_pretrained(tmp_path / "base")
    model = {"kind": "causal_lm", "modalities": {"note": {}}, "path": "base", "tuning": "lora", "lora": {"r": 2}}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(settings(tmp_path, model=model)))
    config = load_config(file)
    result = pipeline.run(config, until="retrained", progress=False)
    weights = dict(base.named_parameters())
    for name in ("original", "unlearned", "retrained-0"):
        stored = load_model(result.folder / "models" / name).model
        off = dict(stored.without_adapter().named_parameters())
        assert stored.has_adapter and all(torch.equal(off[key], p) for key, p in weights.items())
    # the original with its weights, and what it was fine-tuned from
    merged = load_model(result.folder / "models" / "original").model.without_adapter(merge=True)
    merged.lm.save_pretrained(tmp_path / "tuned")
    given = {"kind": "causal_lm", "modalities": {"note": {}}, "path": "base", "checkpoint": "tuned"}
    file.write_text(json.dumps(settings(tmp_path, model=given, run__folder="given")))
    config = load_config(file)
    assert config.model.is_given
    prepared = prepare(config)
    for made, expected in ((prepared.given_model(), merged), (prepared.fresh_model(0), base)):
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), expected.parameters(), strict=True))
    # a stored one does not say what it came from
    loaded = settings(
        tmp_path, model={"load": str(result.folder / "models" / "original")}, run__folder=str(tmp_path / "l")
    )
    pipeline.run(loaded, until="unlearned", progress=False)
    with pytest.raises(ModelError, match=r"model\.path"):
        pipeline.run(loaded, until="retrained", progress=False, resume=True)


def test_every_mistake_of_a_config_is_named_at_once(tmp_path):
    write_notes(tmp_path)
    model = {
        "kind": "causal_lm",
        "modalities": {"note": {"max_len": 4, "format": "none"}, "film": {"kind": "image"}},
        "config": {"n_embd": 4},
        "lora": {"rank": 3},
        "dtyp": "x",
        "tuning": "qlora",
    }
    with pytest.raises(ConfigError) as caught:
        load_config(settings(tmp_path, model=model, task={"name": "causal_lm", "max_logits": 0},
                             unlearning={"method": "npo", "lora": {"r": 0, "merged": True}}))  # fmt: skip
    said = "\n".join(caught.value.problems)
    expected = ["unknown option 'max_len'", "'model_type' is required", "'rank'", "'dtyp'", "reads one, not 2"]
    expected += [
        "model.modalities.film",
        "in 4 bits are not stored",
        "max_logits must be",
        "unlearning.lora",
        "'merged'",
    ]
    for words in expected:
        assert words in said, words


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model__modalities": {"note": {"vocab_size": 280, "max_length": 60}}}, DataError, "1 of 30 records cannot"),
        ({"model__config": {**GPT, "n_positions": 16}}, ModelError, "made for 16 positions"),
        ({"model__config": {**GPT, "vocab_size": 100}}, ModelError, "embedding has 100"),
        ({"model__modalities": {"words": {}}}, ConfigError, "has no 'words'"),
        ({"unlearning": {"method": "forget_mi"}}, MethodError, "embeddings of each modality"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(changes, kind, words, tmp_path):
    write_notes(tmp_path, long_at=5)
    with pytest.raises(kind, match=words):
        pipeline.run(settings(tmp_path, **changes), until="unlearned", progress=False)
    assert not (tmp_path / "run").exists()


def test_texts_that_are_cut_are_counted(tmp_path, caplog):
    changes = {"note": {"vocab_size": 280, "max_length": 60, "on_long": "cut"}}
    with caplog.at_level("WARNING", logger="forgetmi"):
        prepared = prepare(load_config(settings(write_notes(tmp_path, long_at=5), model__modalities=changes)))
    assert prepared.longest == 60
    assert any("note: 1 texts are longer than max_length = 60" in record.message for record in caplog.records)


def test_the_commands(tmp_path):
    write_notes(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(settings(tmp_path)))
    for command in (["check"], ["train"], ["unlearn"]):
        result = CliRunner().invoke(app, [*command, "-c", str(file)])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "models" / "unlearned" / "model.safetensors").is_file()


def test_a_vocabulary_too_small_for_its_tokenizer_would_fail_inside_the_model():
    """Why it is refused beforehand: the embedding has no such row."""
    model = build_causal_lm({"config": {**GPT, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 0}}, 0)
    with pytest.raises(IndexError):
        model(torch.tensor([[10]]), torch.tensor([[1]]))


def test_two_runs_on_language_models_stand_side_by_side(audited, tmp_path):
    _, result = audited
    other = shutil.copytree(result.folder, tmp_path / "other")
    out = [str(tmp_path / name) for name in ("compare.html", "compare.json")]
    given = CliRunner().invoke(app, ["compare", str(result.folder), str(other), "--out", out[0], "--out", out[1]])
    assert given.exit_code == 0, given.output
    assert "forgotten less test" in " ".join(given.output.split())
    pairs = json.loads(Path(out[1]).read_text())["groups"][0]["paired"]
    assert {pair["figure"]: pair["value"] for pair in pairs} == {"loss_auc": 0.0, "loss_difference": 0.0}


def test_attacks_for_classifiers_are_refused_before_anything_is_trained(tmp_path):
    config = load_config(settings(write_notes(tmp_path), audit={"retrains": 2, "attacks": ["loss", "entropy"]}))
    with pytest.raises(AuditError, match="entropy: not for language models"):
        pipeline.run(config, progress=False)
    assert not (tmp_path / "run" / "models").exists()


def test_one_patient_is_audited_without_what_needs_two(tmp_path, caplog, capfd):
    language = {
        "quantisers": [],
        "extraction": {"templates": ["chart"], "max_new_tokens": 6},
        "hierarchy": None,
        "records": 4,
        "max_new_tokens": 120,
    }
    audit = {"retrains": 2, "n_bootstrap": 200, "language": language}
    config = load_config(settings(write_notes(tmp_path), audit=audit, request__ids=["SECRET-p01"]))
    with caplog.at_level("WARNING", logger="forgetmi"):
        result = pipeline.run(config, progress=False)
    assert not {"extraction_strength_auc", "relearned_20_auc"} & set(result.evidence["criteria"])
    assert "relearned_20" not in result.evidence["comparison"]
    said = [record.message for record in caplog.records]
    assert any("no relearning attack" in words for words in said)
    assert any("records are not continued" in words for words in said)  # 120 tokens, of 128 that the model reads
    assert "attention_mask" not in capfd.readouterr().err
