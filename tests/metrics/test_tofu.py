"""TOFU's figures: the published evaluation of the same models on the same files, and what must hold of any model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forgetmi.data_adapters.tofu import Tofu
from forgetmi.errors import AuditError, ConfigError, DataError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.tofu import evaluate_tofu
from forgetmi.metrics.tofu_result import TofuOptions, forget_quality, harmonic_mean
from forgetmi.metrics.truth_ratio import TruthRatios
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.records import Record, RecordDataset
from tests.tiny import tiny_tokenizer

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
SETS = {
    "train": ("forget10_perturbed", "retain_perturbed"),
    "validation": ("real_authors_perturbed", "world_facts_perturbed"),
    "test": ("holdout10",),
}
WRITTEN = Decoding(max_new_tokens=40)  # the longest answers of the published evaluation of the small models
SAME = {  # theirs to ours, where the two are one definition
    "forget_Q_A_Prob": "forget_probability",
    "forget_Q_A_ROUGE": "forget_rouge",
    "forget_Q_A_PARA_ROUGE": "forget_paraphrase_rouge",
    "forget_truth_ratio": "forget_truth_ratio",
    "forget_quality": "forget_quality",
    "exact_memorization": "forget_exact_memorisation",
    "retain_Q_A_Prob": "retain_probability",
    "retain_Q_A_ROUGE": "retain_rouge",
    "retain_Truth_Ratio": "retain_truth_ratio",
    "ra_Q_A_Prob_normalised": "real_authors_probability",
    "ra_Q_A_ROUGE": "real_authors_rouge",
    "ra_Truth_Ratio": "real_authors_truth_ratio",
    "wf_Q_A_Prob_normalised": "world_facts_probability",
    "wf_Q_A_ROUGE": "world_facts_rouge",
    "wf_Truth_Ratio": "world_facts_truth_ratio",
    "model_utility": "model_utility",
}


def published(place, data, questions):
    tokenizer = read_lm_tokenizer(place)
    # Their template has no space before an answer, so prompt and answer tokenized apart are what they are together.
    modality = DialogueModality(tokenizer, format="Question: {prompt}\nAnswer:")
    dataset = Tofu(data, **SETS, questions_per_author=questions).load()
    return build_causal_lm({"path": place}, 0), modality, dataset


@pytest.fixture(scope="module")
def retained():
    model, modality, dataset = published(FOLDER / "inputs" / "gpt2_retain", FOLDER / "inputs" / "locuslab" / "TOFU", 15)
    return evaluate_tofu(model, modality, dataset, TofuOptions("open_unlearning", WRITTEN))


def strength_with_their_floor(part):
    """Published extraction strength is 1/T where no token at the end is right; ours is 0."""
    floor = 1.0 / (part.signals.n_tokens - 1)
    return np.maximum(part.metrics["extraction_strength"].values, floor)


@here
@pytest.mark.parametrize("role", ["target", "current", "retain"])
def test_published_summary_of_three_models(role, retained):
    model, modality, dataset = published(
        FOLDER / "inputs" / f"gpt2_{role}", FOLDER / "inputs" / "locuslab" / "TOFU", 15
    )
    result = evaluate_tofu(
        model, modality, dataset, TofuOptions("open_unlearning", WRITTEN, batch_size=50), retrained=retained
    )
    theirs = json.loads((FOLDER / f"cli_tofu_gpt2_{role}_SUMMARY.json").read_text())
    whole = json.loads((FOLDER / f"cli_tofu_gpt2_{role}_EVAL.json").read_text())
    theirs |= {name: whole[name]["agg_value"] for name in SAME if name in whole and name not in theirs}
    ours = result.summary()
    compared = [name for name in SAME if theirs.get(name) is not None]
    assert len(compared) >= 15
    for name in compared:
        assert ours[SAME[name]] == pytest.approx(theirs[name], abs=1e-5), name
    assert strength_with_their_floor(result.sets["forget"]).mean() == pytest.approx(
        theirs["extraction_strength"], abs=1e-5
    )
    for name in ("forget_Q_A_ROUGE", "ra_Q_A_ROUGE"):
        said = [row["generation"] for row in whole[name]["value_by_index"].values()]
        part = result.sets["forget" if name.startswith("forget") else "real_authors"]
        assert [text.strip() for text in part.written] == said


@here
def test_published_summary_of_the_speed_workload():
    model, modality, dataset = published(
        FOLDER / "bench_inputs" / "model", FOLDER / "bench_inputs" / "locuslab" / "TOFU", 20
    )
    result = evaluate_tofu(model, modality, dataset, TofuOptions("open_unlearning"))
    ours = result.summary()
    theirs = json.loads((FOLDER / "bench_inputs" / "retain_TOFU_EVAL.json").read_text())
    # Single precision over a vocabulary of 5,000, summed along the strided axis: their likelihoods are off by 4e-5
    # themselves (below). What does not sum over the vocabulary agrees as it should.
    for name in SAME:
        if theirs.get(name, {}).get("agg_value") is not None:
            assert ours[SAME[name]] == pytest.approx(theirs[name]["agg_value"], abs=2e-5), name
    for name in ("forget_Q_A_ROUGE", "retain_Q_A_ROUGE", "ra_Q_A_ROUGE", "wf_Q_A_ROUGE"):
        assert ours[SAME[name]] == pytest.approx(theirs[name]["agg_value"], abs=1e-9)
    assert ours["model_utility"] == pytest.approx(0.349786, abs=1e-5)
    assert ours["forget_truth_ratio"] == pytest.approx(0.827363, abs=1e-5)
    assert strength_with_their_floor(result.sets["forget"]).mean() == pytest.approx(0.293182, abs=1e-5)

    value = dataset[0].value("dialogue")
    losses = [row["avg_loss"] for row in theirs["forget_Q_A_Prob"]["value_by_index"].values()]
    ids, labels = modality.prepare(value)
    with torch.inference_mode():
        logits = model.eval().lm(ids[None]).logits[:, :-1]
        strided = torch.nn.functional.cross_entropy(logits.mT, labels[None, 1:], reduction="none", ignore_index=-100)
        plain = torch.nn.functional.cross_entropy(logits.double()[0], labels[1:], reduction="sum", ignore_index=-100)
    n = int((labels != -100).sum())
    part = result.sets["forget"].signals
    assert float(strided.sum()) / n == pytest.approx(losses[0], abs=2e-6)
    assert part.nll[0].sum() / n == pytest.approx(float(plain) / n, abs=2e-6)
    assert abs(losses[0] - float(plain) / n) > 2e-5


@here
def test_the_papers_definitions_differ_where_they_must(retained):
    model, modality, dataset = published(FOLDER / "inputs" / "gpt2_retain", FOLDER / "inputs" / "locuslab" / "TOFU", 15)
    paper = evaluate_tofu(model, modality, dataset, TofuOptions(decoding=WRITTEN))
    same = {"forget_probability", "retain_probability", "forget_rouge", "retain_rouge", "real_authors_rouge"}
    ours, code = paper.summary(), retained.summary()
    assert all(ours[name] == pytest.approx(code[name]) for name in same)
    # several tokens an answer: the sum weighs longer wrong answers down
    assert ours["real_authors_probability"] != pytest.approx(code["real_authors_probability"], abs=1e-4)
    logs = paper.sets["forget"].ratios.logs
    assert (logs > retained.sets["forget"].ratios.logs).all()
    with pytest.raises(AuditError, match="definition"):
        evaluate_tofu(model, modality, dataset, TofuOptions(decoding=Decoding(max_new_tokens=1)), retrained=retained)


# --- what needs no published files ------------------------------------------------------------------------------------


def tiny_case(n_layer=1, sets=("forget10_perturbed", "retain_perturbed", "real_authors_perturbed",
                               "world_facts_perturbed", "holdout10")):  # fmt: skip
    tokenizer = LMTokenizer(tiny_tokenizer(), eos="[UNK]", pad="[PAD]")
    modality = DialogueModality(tokenizer, format="heart {prompt} lungs")
    draw = np.random.default_rng(0)

    def words(n):
        return " ".join(draw.choice(["clear", "large", "fluid", "left", "right", "small", "no", "new"], size=n))

    records = []
    for name in sets:
        for n in range(6):
            value = {"prompt": words(3), "answer": words(2)}
            if name.endswith("_perturbed"):
                value["perturbed_answers"] = [words(2 + k) for k in range(1 + n % 3)]
                if name.startswith(("forget", "retain")):
                    value["paraphrased_answer"] = words(3)
            patient = f"{name}-{n // 2}"
            split = "test" if name.startswith("holdout") else "train"
            records.append(Record(f"{name}-{n}", f"{name}-{n}", patient, "", {"dialogue": value}, None, split,
                                  {"source_split": name}))  # fmt: skip
    config = {"model_type": "gpt2", "vocab_size": 16, "n_positions": 64, "n_embd": 16, "n_layer": n_layer, "n_head": 2,
              "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
    model = build_causal_lm({"config": config, "dtype": "float64"}, 0)
    dataset = RecordDataset(records, name="tofu", levels=("patient",), modality_kinds={"dialogue": "dialogue"})
    return model, modality, dataset


QUICK = TofuOptions(decoding=Decoding(max_new_tokens=4))


def test_batch_size_and_order_change_nothing_and_the_mode_is_kept():
    model, modality, dataset = tiny_case()
    model.train()
    first = evaluate_tofu(model, modality, dataset, QUICK)
    assert model.training
    again = evaluate_tofu(model, modality, dataset, replace(QUICK, batch_size=5))
    assert first.summary() == pytest.approx(again.summary(), abs=1e-12)
    assert first.sets["retain"].written == again.sets["retain"].written


def test_each_answer_goes_through_the_model_once(monkeypatch):
    model, modality, dataset = tiny_case()
    scored = []
    prepare = DialogueModality.prepare
    monkeypatch.setattr(DialogueModality, "prepare", lambda self, value: scored.append(value) or prepare(self, value))
    monkeypatch.setattr("forgetmi.metrics.tofu.prompts_of", lambda modality, values: [[3, 4]] * len(values))
    evaluate_tofu(model, modality, dataset, QUICK)
    wrong = 2 * (1 + 2 + 3)
    assert len(scored) == 2 * (6 + 6 + wrong) + 2 * (6 + wrong) + 6


def test_figures_have_intervals_by_patient_and_the_means_of_the_summary():
    model, modality, dataset = tiny_case()
    result = evaluate_tofu(model, modality, dataset, QUICK)
    figures = result.figures(np.random.default_rng(0), n_resamples=200)
    summary = result.summary()
    assert set(summary) == set(figures)
    for name, figure in figures.items():
        assert figure.value == pytest.approx(summary[name])
        assert figure.direction.startswith("remembers" if name.startswith("forget") else "useful"), name
        assert figure.n_patients == (9 if name == "model_utility" else 3)
    utility = figures["model_utility"]
    nine = [summary[f"{role}_{what}"] for role in ("retain", "real_authors", "world_facts")
            for what in ("probability", "rouge", "truth_ratio")]  # fmt: skip
    assert utility.value == pytest.approx(0.0 if 0.0 in nine else 9 / sum(1 / part for part in nine))
    assert not any(name.startswith("holdout") for name in summary)  # only its signals are of use
    assert result.sets["holdout"].signals.mask.any()


def test_utility_is_exactly_zero_where_one_part_is_and_absent_where_one_is_missing():
    assert harmonic_mean(np.array([0.5, 0.0, 1.0])) == 0.0
    assert harmonic_mean(np.full(9, 0.3)) == pytest.approx(0.3)
    nine = [0.91, 0.55, 0.43, 0.61, 0.72, 0.58, 0.66, 0.81, 0.37]
    assert harmonic_mean(np.array(nine)) == pytest.approx(0.5826201491083814)
    model, modality, dataset = tiny_case(sets=("forget10_perturbed", "retain_perturbed"))
    result = evaluate_tofu(model, modality, dataset, QUICK)
    assert result.utility is None
    assert "missing" in result.utility_figure(np.random.default_rng(0)).reason


def test_a_forget_set_without_wrong_answers_has_no_truth_ratio():
    model, modality, dataset = tiny_case(sets=("forget10",))
    result = evaluate_tofu(model, modality, dataset, QUICK)
    assert result.sets["forget"].ratios is None
    assert "forget_probability" in result.summary()
    assert "forget_truth_ratio" not in result.summary()
    with pytest.raises(AuditError, match="wrong answers"):
        evaluate_tofu(model, modality, dataset, QUICK, retrained=result)
    with pytest.raises(AuditError, match="utility"):
        result.utility_figure(np.random.default_rng(0))


def test_what_cannot_be_evaluated_is_refused():
    model, modality, dataset = tiny_case(sets=("retain_perturbed",))
    with pytest.raises(DataError, match="no forget set"):
        evaluate_tofu(model, modality, dataset, QUICK)
    _, _, dataset = tiny_case(sets=("forget10", "forget10_perturbed"))
    with pytest.raises(DataError, match="both forget sets"):
        evaluate_tofu(model, modality, dataset, QUICK)
    _, _, dataset = tiny_case(sets=("forget10", "something"))
    with pytest.raises(DataError, match="something"):
        evaluate_tofu(model, modality, dataset, QUICK)
    with pytest.raises(ConfigError) as error:
        TofuOptions("papers", Decoding(temperature=1.0, samples=2), 0)
    assert len(error.value.problems) == 3


# --- forget quality ---------------------------------------------------------------------------------------------------


def ratios(logs, averaging="arithmetic"):
    return TruthRatios(np.asarray(logs, dtype=np.float64), averaging)


@here
def test_published_kolmogorov_smirnov_test():
    theirs = json.loads((FOLDER / "metrics_functions.json").read_text())["ks_test"]
    forget, retain = (np.log(theirs[name]) for name in ("forget", "retain"))
    found = forget_quality(ratios(forget), ratios(retain))
    assert found.p == pytest.approx(theirs["agg_value"], rel=1e-12)
    assert found.log_p == pytest.approx(math.log(theirs["agg_value"]), rel=1e-12)
    assert forget_quality(ratios(-forget), ratios(-retain)).p == pytest.approx(found.p)  # of 1/R
    assert forget_quality(ratios(forget), ratios(forget)).p == 1.0


def test_separate_ratios_by_counting():
    # of all C(2n, n) orders, two separate the samples
    for n in (5, 40, 200):
        found = forget_quality(ratios(np.arange(n)), ratios(np.arange(n) + 1000))
        assert found.statistic == 1.0
        assert found.exact
        assert found.log_p == pytest.approx(math.log(2) - math.log(math.comb(2 * n, n)), rel=1e-12)
    smallest = forget_quality(ratios(np.arange(600)), ratios(np.arange(600) + 1000))
    assert smallest.p == 0.0
    assert math.log(2) - math.log(math.comb(1200, 600)) < smallest.log_p < -744
    json.dumps(smallest.to_dict(), allow_nan=False)


def test_questions_without_a_ratio_are_left_out_of_the_test():
    found = forget_quality(ratios([0.0, np.nan, 1.0]), ratios([0.5, 0.6, 0.7]))
    assert (found.n_unlearned, found.n_retrained) == (2, 3)
    with pytest.raises(AuditError, match="needs questions"):
        forget_quality(ratios([np.nan]), ratios([0.5]))
    with pytest.raises(AuditError, match="geometric"):
        forget_quality(ratios([0.5], "geometric"), ratios([0.5]))
