"""Evaluation only: one's own model on one's own files, kept under hashes."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.errors import AuditError, ConfigError, DataError, ModelError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.text_metrics import TextMetricOptions
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLMConfig, build_causal_lm
from forgetmi.models.persistence import save_model
from forgetmi.models.tokenizer import END, PAD, train_lm_tokenizer
from forgetmi.runs.evaluate import EvaluateOptions, evaluate

WORDS = ("clear", "lungs", "heart", "large", "fluid", "left", "right", "small", "no", "new", "Smith", "MRN")
OPTIONS = EvaluateOptions(
    metrics=TextMetricOptions(decoding=Decoding(max_new_tokens=6), extraction_likelihood=3), n_bootstrap=200
)


def texts(seed: int, n: int) -> list[dict[str, str]]:
    draw = np.random.default_rng(seed)
    return [
        {
            "prompt": " ".join(draw.choice(WORDS, 3)),
            "answer": " ".join(draw.choice(WORDS, int(draw.integers(4, 9)))) + f" {int(draw.integers(1000, 9999))}",
            "patient": f"SECRET{seed}-{row // 2}",
        }
        for row in range(n)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two models of transformers and three files."""
    folder = tmp_path_factory.mktemp("evaluate")
    rows = {"forget": texts(1, 12), "holdout": texts(2, 12), "retain": texts(3, 8)}
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    everything = [row["prompt"] + " " + row["answer"] for found in rows.values() for row in found]
    tokenizer = LMTokenizer(train_lm_tokenizer(everything, 300), eos=END, pad=PAD)
    gpt = {"model_type": "gpt2", "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}
    for seed, name in enumerate(("before", "after")):
        settings = CausalLMConfig(config={**gpt, "vocab_size": tokenizer.size})
        model = build_causal_lm(settings, seed)
        model.lm.save_pretrained(folder / name)
        tokenizer.for_transformers.save_pretrained(folder / name)
    return folder


def files(place, *names):
    return {name: place / f"{name}.jsonl" for name in names}


def test_figures_are_those_of_the_models_likelihoods(place, tmp_path):
    found = evaluate(place / "before", files(place, "forget", "holdout"), tmp_path, OPTIONS)
    figures = found.document["figures"]["forget"]
    lm = build_causal_lm(CausalLMConfig(path=place / "before"), 0).eval()
    modality = DialogueModality(read_lm_tokenizer(place / "before"))
    rows = [json.loads(line) for line in (place / "forget.jsonl").read_text().splitlines()]
    losses = []
    for row in rows:
        ids, labels = modality.prepare(row)
        with torch.no_grad():
            log_p = lm.lm(ids[None]).logits[0].log_softmax(-1)
        places = [t for t in range(1, len(ids)) if labels[t] != -100]
        losses.append(-np.mean([float(log_p[t - 1, ids[t]]) for t in places]))
    assert figures["mean_nll"]["value"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert figures["probability"]["value"] == pytest.approx(np.mean(np.exp(-np.array(losses))), rel=1e-5)
    assert figures["mean_nll"]["n_patients"] == 6 and figures["mean_nll"]["n_samples"] == 12
    assert figures["mean_nll"]["direction"] == "remembers_below"
    assert found.document["figures"]["holdout"]["mean_nll"]["direction"] == "useful_below"
    assert {"answer_rougeL_recall", "keyword_accuracy", "extraction_likelihood_3"} <= set(figures)


def test_every_record_has_a_row_and_the_figure_is_its_mean(place, tmp_path):
    found = evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS)
    rows = list(csv.DictReader(found.path.with_suffix(".csv").open()))
    assert [row["row"] for row in rows] == [str(n) for n in range(1, 13)]
    mean = np.mean([float(row["mean_nll"]) for row in rows])
    assert found.document["figures"]["forget"]["mean_nll"]["value"] == pytest.approx(mean, rel=1e-6)
    assert "SECRET" not in found.path.read_text() + found.path.with_suffix(".csv").read_text()


def test_attacks_compare_forget_with_holdout_by_patient(place, tmp_path):
    options = EvaluateOptions(
        metrics=TextMetricOptions(decoding=None, extraction_likelihood=0, keywords=False),
        attacks=("loss", "zlib", "min_k", "gradient_norm", "reference"),
        n_bootstrap=200,
    )
    both = files(place, "forget", "holdout")
    found = evaluate(place / "before", both, tmp_path, options, reference=place / "after").document
    assert set(found["attacks"]) == {"loss", "zlib", "min_k", "gradient_norm", "reference"}
    loss = found["attacks"]["loss"]["figures"]
    scores = {}
    for row in csv.DictReader(next(tmp_path.glob("*.csv")).open()):
        scores.setdefault(row["set"], []).append(-float(row["mean_nll"]))
    pairs = [(a > b) + 0.5 * (a == b) for a in scores["forget"] for b in scores["holdout"]]
    assert loss["auc"]["value"] == pytest.approx(np.mean(pairs))
    assert loss["auc"]["n_patients"] == 12


def test_texts_without_patients_have_nobody_in_common_and_named_ones_must_not(place, tmp_path):
    rows = [json.loads(line) for line in (place / "forget.jsonl").read_text().splitlines()]
    for name in ("forget", "holdout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": r["answer"]}) + "\n" for r in rows))
    options = EvaluateOptions(
        metrics=TextMetricOptions(decoding=None, extraction_likelihood=0, keywords=False), n_bootstrap=200
    )
    unnamed = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "holdout")}
    found = evaluate(place / "before", unnamed, tmp_path / "out", options).document
    assert found["attacks"]["loss"]["figures"]["auc"]["value"] == 0.5  # the same texts on both sides
    assert found["attacks"]["loss"]["figures"]["auc"]["n_patients"] == 24
    same = {"forget": place / "forget.jsonl", "holdout": place / "forget.jsonl"}
    with pytest.raises(AuditError, match="a patient stands in"):
        evaluate(place / "before", same, tmp_path / "out", options)


def test_a_result_is_kept_by_hashes_and_never_taken_for_another_models(place, tmp_path):
    import shutil

    shutil.copytree(place / "before", place / "current", dirs_exist_ok=True)
    first = evaluate(place / "current", files(place, "forget"), tmp_path, OPTIONS)
    assert not first.kept and evaluate(place / "current", files(place, "forget"), tmp_path, OPTIONS).kept
    shutil.copytree(place / "after", place / "current", dirs_exist_ok=True)  # another model in the same folder
    second = evaluate(place / "current", files(place, "forget"), tmp_path, OPTIONS)
    assert not second.kept
    figure = [one.document["figures"]["forget"]["mean_nll"]["value"] for one in (first, second)]
    assert figure[0] != figure[1]
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_the_same_weights_in_another_architecture_are_another_result(place, tmp_path):
    """Heads and rotations are no weights, and change every number."""
    import shutil

    shutil.copytree(place / "before", tmp_path / "before")
    first = evaluate(tmp_path / "before", files(place, "forget"), tmp_path / "out", OPTIONS)
    path = tmp_path / "before" / "config.json"
    path.write_text(path.read_text().replace('"n_head": 2', '"n_head": 4'))
    second = evaluate(tmp_path / "before", files(place, "forget"), tmp_path / "out", OPTIONS)
    assert first.document["key"]["weights"] == second.document["key"]["weights"] and not second.kept
    assert second.document["figures"]["forget"]["mean_nll"] != first.document["figures"]["forget"]["mean_nll"]
    shutil.move(tmp_path / "before", tmp_path / "elsewhere")
    assert evaluate(tmp_path / "elsewhere", files(place, "forget"), tmp_path / "out", OPTIONS).kept


def test_other_texts_or_options_are_another_result(place, tmp_path):
    first = evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS)
    copy = tmp_path / "forget.jsonl"
    copy.write_text((place / "forget.jsonl").read_text().replace("clear", "small"))
    assert not evaluate(place / "before", {"forget": copy}, tmp_path, OPTIONS).kept
    other = EvaluateOptions(metrics=OPTIONS.metrics, n_bootstrap=200, seed=1)
    assert not evaluate(place / "before", files(place, "forget"), tmp_path, other).kept
    assert evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS).document == first.document


def test_a_damaged_result_is_made_again(place, tmp_path):
    first = evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS)
    first.path.write_text("{")
    again = evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS)
    assert not again.kept and json.loads(first.path.read_text()) == first.document


def test_plain_texts_and_stored_models(place, tmp_path):
    """A model that forgetmi stored brings its own reader; texts without a prompt are continued from their half."""
    model = build_causal_lm(CausalLMConfig(path=place / "before"), 0)
    modality = DialogueModality(read_lm_tokenizer(place / "before"))
    save_model(model, tmp_path / "stored", modalities={"note": modality}, task_config={"name": "causal_lm"})
    (tmp_path / "notes.csv").write_text("text,author\nclear lungs heart large fluid,A\nno new fluid left right,B\n")
    found = evaluate(tmp_path / "stored", {"forget": tmp_path / "notes.csv"}, tmp_path / "out", OPTIONS).document
    assert "continuation_rougeL_f1" in found["figures"]["forget"] and found["sets"]["forget"]["patients"] == 2


def test_what_is_asked_wrongly_is_said_at_once(place, tmp_path):
    options = EvaluateOptions(attacks=("reference",))
    with pytest.raises(ConfigError) as caught:
        evaluate(place / "before", {"forgot": tmp_path / "no.jsonl"}, tmp_path, options)
    said = str(caught.value)
    assert "did you mean 'forget'" in said.lower() and "is no file" in said and "--reference" in said
    with pytest.raises(ConfigError, match="unknown 'zlb'"):
        EvaluateOptions(attacks=("zlb",))


def test_files_without_texts_are_refused(place, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "clear"}\n')
    with pytest.raises(DataError, match="no column of texts that is known; it has body"):
        evaluate(place / "before", {"forget": tmp_path / "a.jsonl"}, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_broken_model_gives_no_numbers(place, tmp_path):
    model = build_causal_lm(CausalLMConfig(path=place / "before"), 0)
    with torch.no_grad():
        model.lm.lm_head.weight[0] = math.nan
    modality = DialogueModality(read_lm_tokenizer(place / "before"))
    save_model(model, tmp_path / "stored", modalities={"note": modality}, task_config={"name": "causal_lm"})
    with pytest.raises(ModelError, match="not finite"):
        evaluate(tmp_path / "stored", files(place, "forget"), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_the_command(place, tmp_path):
    models = ["-m", str(place / "before"), "-m", str(place / "after")]
    given = ["--forget", str(place / "forget.jsonl"), "--holdout", str(place / "holdout.jsonl")]
    options = ["n_bootstrap=200", "metrics.decoding.max_new_tokens=4"]
    asked = ["evaluate", *models, *given, "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "AUC of attacks" in result.output and "mean_nll" in result.output and "saved:" in result.output
    assert "kept:" in CliRunner().invoke(app, asked).output
    wrong = CliRunner().invoke(app, ["evaluate"])
    assert wrong.exit_code == 2 and "--model" in wrong.output and "--forget" in wrong.output


def test_greedy_and_sampled_answers_stand_beside_each_other(place, tmp_path):
    def measured(decoding, out, seed=0):
        metrics = TextMetricOptions(decoding=decoding, extraction_likelihood=3)
        return evaluate(
            place / "before", files(place, "forget"), out, EvaluateOptions(metrics=metrics, n_bootstrap=200, seed=seed)
        ).document["figures"]["forget"]

    greedy = measured(Decoding(max_new_tokens=6), tmp_path)
    drawn = Decoding(max_new_tokens=6, temperature=1.0, samples=3)
    both = measured(drawn, tmp_path)
    assert {name: both[name] for name in greedy} == greedy
    written = {"answer_rougeL_recall_sampled", "n_gram_entropy_sampled", "repetition_4_sampled"}
    assert set(both) - set(greedy) == written
    assert measured(drawn, tmp_path / "again") == both
    other = measured(drawn, tmp_path, seed=1)
    assert any(other[name]["value"] != both[name]["value"] for name in written)


def test_a_destroyed_copy_stands_beside_and_random_weights_are_called_destroyed(place, tmp_path):
    three = files(place, "forget", "retain", "holdout")
    found = evaluate(place / "before", three, tmp_path, OPTIONS, controls=True).document
    assert found["standing"]["destroyed"] is True  # it was never trained
    control = found["controls"]["destroyed"]
    assert set(control["figures"]) == set(three) and set(control["attacks"]) == set(found["attacks"])
    losses = [control["figures"][name]["mean_nll"]["value"] for name in ("retain", "holdout")]
    assert found["standing"]["control_nll"] == pytest.approx((8 * losses[0] + 12 * losses[1]) / 20)
    alone = evaluate(place / "before", files(place, "forget"), tmp_path, OPTIONS).document
    assert alone["standing"]["destroyed"] is None and "retain or holdout" in alone["standing"]["sentence"]
    assert "controls" not in alone


def test_a_model_that_learnt_which_words_are_frequent_is_not_destroyed(place, tmp_path):
    """Its law is that of the texts' tokens, whatever it reads: better than the uniform one by far."""
    model = build_causal_lm(CausalLMConfig(path=place / "before"), 0).eval()
    modality = DialogueModality(read_lm_tokenizer(place / "before"))
    rows = [json.loads(line) for line in (place / "retain.jsonl").read_text().splitlines()]
    ids = torch.cat([modality.prepare(row)[0] for row in rows])
    law = torch.bincount(ids, minlength=modality.tokenizer.size).double() + 0.1
    head = torch.zeros_like(model.lm.lm_head.weight)
    with torch.no_grad():
        head[:, 0] = (law / law.sum()).log().float()
        model.lm.lm_head.weight = torch.nn.Parameter(head)
        model.lm.transformer.ln_f.weight.zero_()
        model.lm.transformer.ln_f.bias.copy_(torch.eye(16)[0])
    model.lm.config.tie_word_embeddings = False
    save_model(model, tmp_path / "stored", modalities={"note": modality}, task_config={"name": "causal_lm"})
    found = evaluate(tmp_path / "stored", files(place, "retain"), tmp_path / "out", OPTIONS, controls=True).document
    assert found["standing"]["destroyed"] is False, found["standing"]["sentence"]
    labels = [modality.prepare(row)[1] for row in rows]
    losses = [-(law / law.sum()).log()[label[label != -100]].mean() for label in labels]
    assert found["standing"]["mean_nll"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
