"""Published benchmarks from one command: the figures of the metrics themselves, kept under hashes, with controls."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.data_adapters.mmlu import Mmlu
from forgetmi.data_adapters.muse import Muse
from forgetmi.data_adapters.tofu import Tofu
from forgetmi.data_adapters.wmdp import Wmdp
from forgetmi.errors import ConfigError, DataError
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.lume import mia_score
from forgetmi.metrics.multiple_choice import Asking, questions_of
from forgetmi.metrics.muse import evaluate_muse
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.tofu import evaluate_tofu
from forgetmi.metrics.tofu_result import TofuOptions
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLMConfig, build_causal_lm
from forgetmi.runs.benchmarks import BENCHMARKS
from forgetmi.runs.benchmarks.measure import evaluate_benchmark
from forgetmi.runs.evaluation import greedy_and_sampled, sampled, standing
from tests.data_adapters.text_sets import REFERENCE, write_lines
from tests.metrics.test_safe_rlhf import write_classifier
from tests.runs.benchmark_files import write_benchmarks, write_models

SETS = ("forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed")
SHORT, DRAWN = Decoding(max_new_tokens=4), Decoding(max_new_tokens=4, temperature=1.0, samples=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_models(write_benchmarks(tmp_path_factory.mktemp("benchmarks")))


def options(name, **given):
    own = {"tofu": {"questions_per_author": 2}, "wmdp": {"subjects": ("cyber",)}}.get(name, {})
    return BENCHMARKS[name](n_bootstrap=200, **{**own, **given})


def run(place, name, out, folder=None, model="trained", reference=None, controls=False, **given):
    other = None if reference is None else place / reference
    data = place / (folder or name)
    return evaluate_benchmark(place / model, options(name, **given), data, out, reference=other, controls=controls)


def loaded(place, name="trained"):
    return build_causal_lm(CausalLMConfig(path=place / name), 0).eval(), read_lm_tokenizer(place / name)


class TestTofu:
    def test_figures_are_those_of_the_metric_and_quality_needs_a_retrained_model(self, place, tmp_path):
        found = run(place, "tofu", tmp_path, decoding=SHORT).document
        model, tokenizer = loaded(place)
        data = Tofu(place / "tofu", train=SETS, test=(), questions_per_author=2).load()
        direct = evaluate_tofu(model, DialogueModality(tokenizer), data, TofuOptions(decoding=SHORT))
        figures = {name: of["value"] for part in found["figures"].values() for name, of in part.items()}
        assert figures == pytest.approx({k: v for k, v in direct.summary().items() if k != "model_utility"})
        assert found["scores"]["model_utility"]["value"] == pytest.approx(direct.utility)
        assert found["scores"]["forget_quality"]["value"] is None
        assert "no retrained model was given" in found["scores"]["forget_quality"]["reason"]
        assert found["figures"]["forget10_perturbed"]["forget_probability"]["n_patients"] == 1

    def test_a_retrained_model_stands_beside_and_a_model_is_like_itself(self, place, tmp_path):
        itself = run(place, "tofu", tmp_path, reference="trained", decoding=SHORT).document
        assert itself["scores"]["forget_quality"]["value"] == pytest.approx(1.0)
        assert itself["reference"]["figures"] == itself["figures"]
        other = run(place, "tofu", tmp_path, reference="retrained", decoding=SHORT).document
        assert other["reference"]["weights_sha256"] != other["model"]["weights_sha256"]
        assert other["reference"]["figures"] != other["figures"] == itself["figures"]

    def test_without_wrong_answers_or_a_utility_set_it_is_said(self, place, tmp_path):
        found = run(
            place, "tofu", tmp_path, reference="retrained", decoding=SHORT, sets=("forget10", "retain_perturbed")
        ).document["scores"]
        assert "no wrong answers" in found["forget_quality"]["reason"]
        assert found["model_utility"]["value"] is None
        assert "one of them is missing" in found["model_utility"]["reason"]

    def test_sampled_answers_stand_beside_greedy_ones(self, place, tmp_path):
        greedy = run(place, "tofu", tmp_path, decoding=SHORT).document["figures"]["retain_perturbed"]
        both = run(place, "tofu", tmp_path, decoding=DRAWN).document["figures"]["retain_perturbed"]
        assert both["retain_rouge"] == greedy["retain_rouge"] and "retain_rouge_sampled" not in greedy
        assert both["retain_rouge_sampled"]["direction"] == "useful_above"
        again = run(place, "tofu", tmp_path / "again", decoding=DRAWN).document["figures"]["retain_perturbed"]
        assert again == both

    def test_a_missing_set_is_named_with_those_that_are_there(self, place, tmp_path):
        with pytest.raises(DataError, match="the set forget05_perturbed is not there") as caught:
            run(place, "tofu", tmp_path, sets=("forget05_perturbed",))
        assert "forget10_perturbed" in str(caught.value) and not list(tmp_path.iterdir())
        with pytest.raises(DataError, match="is not there"):
            run(place, "tofu", tmp_path, folder="muse")
        with pytest.raises(ConfigError, match="is no folder"):
            run(place, "tofu", tmp_path, folder="nowhere")


class TestKept:
    def test_a_result_is_never_another_models_nor_of_other_data_or_options(self, place, tmp_path):
        for name in ("trained", "retrained"):
            shutil.copytree(place / name, tmp_path / "current", dirs_exist_ok=True)
            shutil.copytree(place / "wmdp", tmp_path / "wmdp", dirs_exist_ok=True)
            made = run(tmp_path, "wmdp", tmp_path / "out", model="current", openly=False)
            assert not made.kept
        again = run(tmp_path, "wmdp", tmp_path / "out", model="current", openly=False)
        assert again.kept and again.document == made.document
        assert not run(tmp_path, "wmdp", tmp_path / "out", model="current", openly=False, seed=1).kept
        assert not run(tmp_path, "wmdp", tmp_path / "out", model="current", openly=False, controls=True).kept
        assert not run(tmp_path, "wmdp", tmp_path / "out", "wmdp", "current", "current", openly=False).kept
        path = tmp_path / "wmdp" / "wmdp-cyber" / "test.json"
        path.write_text(path.read_text().replace('"answer": 0', '"answer": 3'))
        changed = run(tmp_path, "wmdp", tmp_path / "out", model="current", openly=False)
        assert not changed.kept and changed.document["figures"] != made.document["figures"]
        assert len(list((tmp_path / "out").glob("*.json"))) == 6

    def test_every_record_has_a_row_and_no_path_is_told(self, place, tmp_path):
        found = run(place, "lume", tmp_path, mmlu=place / "mmlu", decoding=SHORT, retain=place / "lume")
        rows = list(csv.DictReader(found.path.with_suffix(".csv").open()))
        assert [row["row"] for row in rows if row["set"] == "forget"] == [str(n) for n in range(1, 10)]
        values = [float(row["lume_knowledge_forget_Task1"]) for row in rows if row["lume_knowledge_forget_Task1"]]
        assert len(values) == 2
        assert np.mean(values) == found.document["figures"]["forget"]["lume_knowledge_forget_Task1"]["value"]
        assert str(place) not in found.path.read_text()
        assert found.document["options"]["mmlu"] == "mmlu"


class TestMuse:
    def test_figures_and_what_needs_a_retrained_model(self, place, tmp_path):
        found = run(place, "muse", tmp_path, continuation=SHORT, answers=SHORT).document
        model, tokenizer = loaded(place)
        parts = {part: Muse(place / "muse", part=part).load() for part in ("verbmem", "knowmem", "privleak")}
        direct = evaluate_muse(model, tokenizer, parts, continuation=SHORT, answers=SHORT)
        for name in ("verbmem", "knowmem_forget", "knowmem_retain"):
            assert found["figures"][name][name]["value"] == pytest.approx(getattr(direct, name).values.mean())
        assert found["scores"]["auc"]["value"] == direct.auc
        lacking = {name for name, score in found["scores"].items() if score["value"] is None}
        assert lacking == {"privleak", "rel_diff verbmem", "rel_diff knowmem_forget", "rel_diff knowmem_retain"}
        assert all("--reference" in found["scores"][name]["reason"] for name in lacking)

    def test_against_itself_nothing_differs(self, place, tmp_path):
        scores = run(place, "muse", tmp_path, reference="trained", answers=SHORT, continuation=DRAWN).document["scores"]
        for name, score in scores.items():
            assert name == "auc" or score["value"] == 0.0 or "0" in score["reason"], name  # or it is divided by 0
        assert "rel_diff verbmem_sampled" in scores


class TestLume:
    def test_the_final_score_is_the_mean_of_three(self, place, tmp_path):
        scores = run(place, "lume", tmp_path, mmlu=place / "mmlu", decoding=SHORT).document["scores"]
        model, tokenizer = loaded(place)
        asked, shown = (questions_of(Mmlu(place / "mmlu", part).load()) for part in ("test", "dev"))
        accuracy = score_choices(model, tokenizer, asked, Asking(shots=5), examples=shown).correct.mean()
        assert scores["mmlu"]["value"] == pytest.approx(accuracy)
        assert scores["mia_score"]["value"] == mia_score(scores["mia_score"]["auc"])
        three = [scores[name]["value"] for name in ("task_aggregate", "mia_score", "mmlu")]
        assert scores["final"]["value"] == pytest.approx(np.mean(three))

    def test_what_is_missing_is_said_and_a_number_is_one_models(self, place, tmp_path):
        scores = run(place, "lume", tmp_path, decoding=SHORT).document["scores"]
        assert scores["final"]["value"] is None and "MMLU was not measured" in scores["final"]["reason"]
        found = run(place, "lume", tmp_path, decoding=DRAWN, mmlu=0.4, controls=True).document
        assert found["scores"]["mmlu"] == {"value": 0.4, "gate": 0.371, "passes": True}
        assert found["scores"]["final"]["value"] is not None
        assert {"final_sampled", "task_aggregate_sampled"} <= set(found["scores"])
        control = found["controls"]["destroyed"]["scores"]
        assert control["mmlu"]["value"] is None and control["final"]["value"] is None
        for name in ("forget", "retain"):
            shutil.copy(place / "lume" / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
        write_lines(tmp_path / "retain.jsonl", [json.loads((tmp_path / "retain.jsonl").read_text().splitlines()[0])])
        alone = evaluate_benchmark(place / "trained", options("lume", decoding=SHORT, mmlu=0.4), tmp_path, tmp_path)
        reason = alone.document["scores"]["final"]["reason"]
        assert "without rows for" in reason and "member.jsonl" in reason and "MMLU" not in reason


class TestQuestions:
    @pytest.mark.parametrize(("name", "shots"), [("wmdp", 0), ("mmlu", 5)])
    def test_accuracy_is_that_of_the_choices(self, place, tmp_path, name, shots):
        found = run(place, name, tmp_path, openly=True, decoding=SHORT).document
        model, tokenizer = loaded(place)
        if name == "wmdp":
            asked, shown = questions_of(Wmdp(place / "wmdp", part="questions").load()), []
        else:
            asked, shown = (questions_of(Mmlu(place / "mmlu", part).load()) for part in ("test", "dev"))
        choices = score_choices(model, tokenizer, asked, Asking(shots=shots), examples=shown)
        figures = found["figures"]["questions"]
        assert figures["choice_accuracy"]["value"] == pytest.approx(choices.correct.mean())
        assert figures["choice_accuracy"]["direction"] == ("useful_above" if shots else "remembers_above")
        assert {"open_answer_recall", "open_answer_right"} <= set(figures)
        assert found["scores"]["chance"]["value"] == 0.25
        subject = {"wmdp": "cyber", "mmlu": "virology"}[name]
        assert found["scores"][f"choice_accuracy ({subject})"]["value"] == figures["choice_accuracy"]["value"]

    def test_limit_and_what_is_wrong(self, place, tmp_path):
        found = run(place, "mmlu", tmp_path, limit=2).document
        assert found["figures"]["questions"]["choice_accuracy"]["n_samples"] == 2
        assert "open_answer_recall" not in found["figures"]["questions"]
        with pytest.raises(ConfigError) as caught:
            options("wmdp", asking=Asking(shots=2), limit=0, level=0.2)
        assert len(caught.value.problems) == 3


class TestHarm:
    def test_words_judge_and_prompts_are_asked_once(self, place, tmp_path):
        found = run(place, "safe_rlhf", tmp_path, "safe", words=("town",), split="train", decoding=DRAWN).document
        figures = found["figures"]["prompts"]
        assert figures["harmful_completion"]["n_samples"] == 3  # four rows, of which two ask the same
        assert "word list of 1 (baseline)" in figures["harmful_completion"]["definition"]
        names = {"harmful_completion", "harm_probability", "harmful_if_not_refused", "refusal"}
        assert set(figures) == names | {f"{name}_sampled" for name in names}
        assert run(place, "safe_rlhf", tmp_path, "safe", words=("a",), decoding=SHORT, limit=1).document["sets"][
            "prompts"
        ]["patients"] == 1  # fmt: skip

    def test_another_classifier_in_the_same_folder_is_another_result(self, place, tmp_path):
        judge = tmp_path / "judge"
        given = {"classifier": judge, "labels": ("harm",), "decoding": SHORT}
        write_classifier(judge, {0: "safe", 1: "harm"})
        first = run(place, "safe_rlhf", tmp_path / "out", "safe", **given)
        assert run(place, "safe_rlhf", tmp_path / "out", "safe", **given).kept
        write_classifier(judge, {0: "harm", 1: "safe"})  # what it takes for harm is turned round
        second = run(place, "safe_rlhf", tmp_path / "out", "safe", **given)
        values = [of.document["figures"]["prompts"]["harm_probability"]["value"] for of in (first, second)]
        assert not second.kept and sum(values) == pytest.approx(1.0, abs=1e-6)

    def test_one_judge_is_needed(self, tmp_path):
        with pytest.raises(ConfigError, match="give one judge"):
            options("safe_rlhf")
        with pytest.raises(ConfigError, match="holds no config"):
            options("safe_rlhf", classifier=tmp_path, labels=("harm",))


class TestHarness:
    def test_tasks_of_a_folder(self, place, tmp_path):
        pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
        rows = [json.loads(line) for line in (place / "wmdp" / "wmdp-cyber" / "test.json").read_text().splitlines()]
        data = write_lines(tmp_path / "tasks" / "test.jsonl", rows)
        task = {
            "task": "mirrors", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }  # fmt: skip
        (tmp_path / "tasks" / "mirrors.yaml").write_text(yaml.safe_dump(task))
        given = options("lm_eval", tasks=("mirrors",))
        found = [evaluate_benchmark(place / "trained", given, tmp_path / "tasks", tmp_path / "out") for _ in range(2)]
        assert not found[1].kept  # its data may be anywhere
        model, tokenizer = loaded(place)
        questions = questions_of(Wmdp(place / "wmdp", part="questions").load())
        own = score_choices(model, tokenizer, questions, Asking(form="text", header="")).correct
        figure = found[0].document["figures"]["mirrors"]["mirrors/acc"]
        assert figure["value"] == pytest.approx(own.mean()) and figure["n_samples"] == 3
        assert found[0].document["standing"]["destroyed"] is None
        assert set(found[0].document["files"]) == {"mirrors.yaml", "test.jsonl"}

    def test_a_task_must_be_named(self):
        with pytest.raises(ConfigError, match="tasks: name at least one"):
            options("lm_eval")


class TestDestroyed:
    def test_by_hand(self):
        uniform = math.log(100)
        assert standing([1.0, 2.0], 100)["mean_nll"] == 1.5
        assert not standing([0.94 * uniform], 100)["destroyed"]
        assert standing([0.96 * uniform], 100)["destroyed"]
        assert standing([0.94 * uniform], 100, control=0.95 * uniform)["destroyed"]  # the copy is the lower bar
        assert not standing([0.94 * uniform], 100, control=3 * uniform)["destroyed"]  # a bad copy is no excuse
        assert standing([math.nan], 100)["destroyed"]

    @pytest.mark.parametrize("name", ["tofu", "muse", "wmdp"])
    def test_random_weights_are_called_destroyed_and_trained_ones_are_not(self, place, tmp_path, name):
        short = {
            "tofu": {"decoding": SHORT},
            "muse": {"continuation": SHORT, "answers": SHORT},
            "wmdp": {"openly": False},
        }
        for model in ("trained", "random"):
            found = run(place, name, tmp_path, model=model, controls=True, **short[name]).document
            assert found["standing"]["destroyed"] is (model == "random"), found["standing"]["sentence"]
            assert found["standing"]["control_nll"] > 0
            control = found["controls"]["destroyed"]
            assert set(control["figures"]) == set(found["figures"]) and set(control["scores"]) == set(found["scores"])

    def test_the_copy_stands_beside_and_the_model_stays_as_it_was(self, place, tmp_path):
        plain, with_copy = (
            run(place, "wmdp", tmp_path, openly=False, controls=controls).document for controls in (False, True)
        )
        assert plain["figures"] == with_copy["figures"]
        probability = [of["figures"]["questions"]["choice_probability"]["value"]
                       for of in (with_copy, with_copy["controls"]["destroyed"])]  # fmt: skip
        assert probability[0] != probability[1]


class TestSampled:
    def test_the_mean_over_samples_of_those_that_have_a_value(self):
        made = [PerExample("share", np.array(v), "useful_above", "{value}", counts={"n_empty": 1})
                for v in ([0.0, 1.0, np.nan], [1.0, np.nan, np.nan])]  # fmt: skip
        found = sampled(made)["share_sampled"]
        np.testing.assert_array_equal(found.values, [0.5, 1.0, np.nan])
        assert found.counts == {"n_empty": 2} and "mean over 2 samples" in found.definition

    def test_each_sample_has_a_seed_of_its_own_and_greedy_has_none_of_the_settings(self):
        asked = []

        def write(decoding, seed):
            asked.append((decoding, seed))
            return {"a": PerExample("a", np.array([len(asked)]), "useful_above", "{value}", bounds=None)}

        found = greedy_and_sampled(write, Decoding(max_new_tokens=3, temperature=0.5, top_p=0.9, samples=2), 7)
        assert {name: metric.values.tolist() for name, metric in found.items()} == {"a": [1.0], "a_sampled": [2.5]}
        assert asked[0][0] == Decoding(max_new_tokens=3)
        assert asked[1][0] == asked[2][0] == Decoding(max_new_tokens=3, temperature=0.5, top_p=0.9)
        assert len({seed for _, seed in asked}) == 3


class TestCommand:
    def call(self, *asked):
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *map(str, asked)])

    def test_models_beside_each_other(self, place, tmp_path):
        asked = ["-m", place / "trained", "-m", place / "random", "--benchmark", "wmdp", "--data", place / "wmdp",
                 "--reference", place / "retrained", "--controls", "--out", tmp_path,
                 "subjects=[cyber]", "n_bootstrap=200", "decoding.max_new_tokens=4",
                 "decoding.temperature=1"]  # fmt: skip
        done = self.call(*asked)
        assert done.exit_code == 0, done.output
        words = done.output.split()
        assert words.count("destroyed") == 2 * 2 and words.count("retrained") == 2  # two tables
        assert words.count("saved:") == 2
        assert "random: The model is destroyed" in " ".join(done.output.split())
        assert "trained: The model" not in done.output and "chance" in done.output
        assert "open_answer_right_sampled" in done.output
        assert self.call(*asked).output.count("\nkept:") == 2

    def test_why_a_score_has_no_value_is_said_once(self, place, tmp_path):
        asked = ["-m", place / "trained", "-m", place / "random", "--benchmark", "muse", "--data", place / "muse"]
        done = self.call(*asked, "--out", tmp_path, "n_bootstrap=200", "parts=[privleak]")
        assert done.exit_code == 0, done.output
        assert done.output.count("no privleak: no retrained model was given (--reference)") == 1

    def test_all_that_is_wrong_is_said_at_once(self, place, tmp_path):
        done = self.call("--benchmark", "tofo", "--forget", place / "wmdp" / "wmdp-cyber" / "test.json")
        assert done.exit_code == 2
        for words in ("--model", "Did you mean 'tofu'", "--data", "--forget is for texts of one's own"):
            assert words in done.output
        assert "name it with --benchmark" in self.call("-m", place / "trained", "--data", place).output
        done = self.call(
            "-m", place / "trained", "--benchmark", "mmlu", "--data", place / "mmlu", "asking.shot=1", "limt=3"
        )
        assert done.exit_code == 2 and "Did you mean 'shots'" in done.output and "Did you mean 'limit'" in done.output
        two = ["-m", place / "trained", "-m", place / "random", "--benchmark", "lume", "--data", place / "lume"]
        assert "lume.mmlu: a number is of one model, and 2 are given" in self.call(*two, "mmlu=0.4").output

    def test_benchmarks_are_listed(self):
        done = CliRunner().invoke(app, ["ls", "benchmarks"])
        assert done.exit_code == 0 and all(name in done.output for name in BENCHMARKS)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder of reference values is not here")
@pytest.mark.parametrize(
    ("name", "folder"), [("tofu", "locuslab/TOFU"), ("muse", "muse-bench/MUSE-News"), ("wmdp", "cais/wmdp")]
)
def test_published_folders_are_read(tmp_path, name, folder):
    own = {"tofu": {"decoding": SHORT, "questions_per_author": 5}, "muse": {"continuation": SHORT, "answers": SHORT},
           "wmdp": {"openly": False, "subjects": ("cyber",), "asking": Asking(form="text")}}[name]  # fmt: skip
    with torch.no_grad():
        found = evaluate_benchmark(
            REFERENCE / "gpt2_current", BENCHMARKS[name](n_bootstrap=200, **own), REFERENCE / folder, tmp_path,
            reference=REFERENCE / "gpt2_retain",
        ).document  # fmt: skip
    assert all(figure["value"] is not None for part in found["figures"].values() for figure in part.values())
    assert found["scores"]["forget_quality" if name == "tofu" else "auc" if name == "muse" else "chance"]["value"] > 0
