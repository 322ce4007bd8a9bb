"""The Language Model Evaluation Harness on a tiny local task: what is asked for is what is done, offline."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from forgetmi.errors import ConfigError, DataError, MissingDependencyError
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.lm_harness import HarnessOptions, run_harness
from forgetmi.metrics.multiple_choice import HEADER, Asking
from tests.data_adapters.text_sets import write_lines
from tests.metrics.choice_files import quiz, random_lm, word_tokenizer

ASKED = [replace(question, subject="bio") for question in quiz(10)]


@pytest.fixture
def folder(tmp_path):
    """Questions as WMDP's file of the Harness asks them, and by their text; examples for them."""
    rows = [{"question": q.text, "choices": list(q.choices), "answer": q.answer} for q in ASKED]
    test, dev = write_lines(tmp_path / "test.jsonl", rows), write_lines(tmp_path / "dev.jsonl", rows[:3])
    letter = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(test), "dev": str(dev)}},
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "description": HEADER.replace("{subject}", "biology"),
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
                       "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 3},
    }  # fmt: skip
    text = {**letter, "description": "The following are questions (with answers) about biology.\n\n",
            "doc_to_text": "Question: {{question.strip()}}\nAnswer:", "doc_to_choice": "{{choices}}"}  # fmt: skip
    for name, task in (("letter", letter), ("text", text), ("fixed", {**letter, "num_fewshot": 0})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **task}))
    (tmp_path / "both.yaml").write_text(
        yaml.safe_dump({"group": "both", "task": ["letter", "text"], "aggregate_metric_list": [
            {"metric": "acc", "weight_by_size": True}]})
    )  # fmt: skip
    return tmp_path


def test_without_the_package_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError, match="Harness") as caught:
        run_harness(random_lm(), word_tokenizer(), folder, HarnessOptions(("letter",)))
    assert "forgetmi[lm-eval]" in str(caught.value)


def test_options_that_are_wrong_are_named_together():
    with pytest.raises(ConfigError) as caught:
        HarnessOptions((), shots=-1, limit=0, batch_size=0, max_length=0, forgotten=("wmdp",))
    assert len(caught.value.problems) == 6


class TestInstalled:
    @pytest.fixture(autouse=True)
    def _harness(self):
        pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

    @pytest.mark.parametrize(("task", "asking"), [("letter", Asking()), ("text", Asking(form="text"))])
    @pytest.mark.parametrize("shots", [0, 2])
    def test_the_harness_and_our_own_choices_agree(self, folder, task, asking, shots):
        """The same questions in the same words: each is right or wrong alike."""
        model, tokenizer = random_lm(positions=256), word_tokenizer()
        found = run_harness(model, tokenizer, folder, HarnessOptions((task,), shots=shots))
        own = score_choices(model, tokenizer, ASKED, Asking(form=asking.form, shots=shots), examples=ASKED[:3])
        assert found.examples[task, "acc"].values.tolist() == own.correct.tolist()
        assert found.values[task]["acc"] == pytest.approx(own.correct.mean())
        assert 0 < own.correct.mean() < 1, "a test that could not fail"

    def test_batch_size_examples_and_limit_reach_the_harness(self, folder):
        sizes, widths = set(), []

        def note(_, given, named):
            ids = given[0] if given else named["input_ids"]
            sizes.add(len(ids))
            widths.append(ids.shape[1])

        model = random_lm(positions=256)
        hook = model.lm.register_forward_pre_hook(note, with_kwargs=True)
        short = run_harness(model, word_tokenizer(), folder, HarnessOptions(("text",), shots=0, batch_size=1))
        assert sizes == {1} and short.asked == {"text": 10} and short.shots == {"text": 0}
        alone = max(widths)
        sizes.clear()
        widths.clear()
        options = HarnessOptions(("text",), shots=3, batch_size=4, limit=5)
        found = run_harness(model, word_tokenizer(), folder, options)
        hook.remove()
        assert max(sizes) == 4
        assert min(widths) > alone, "3 examples stand before each question"
        assert found.asked == {"text": 5} and found.shots == {"text": 3}
        assert len(found.examples["text", "acc"].values) == 5
        assert found.versions == {"text": 3} and json.dumps(found.to_dict())

    def test_a_number_of_examples_that_the_harness_would_ignore_is_an_error(self, folder):
        model, tokenizer = random_lm(positions=256), word_tokenizer()
        with pytest.raises(ConfigError, match="asked with 0 examples, not 2"):
            run_harness(model, tokenizer, folder, HarnessOptions(("fixed",), shots=2))
        assert run_harness(model, tokenizer, folder, HarnessOptions(("fixed",))).shots == {"fixed": 0}

    def test_a_group_and_what_is_to_be_forgotten(self, folder):
        model, tokenizer = random_lm(positions=256), word_tokenizer()
        found = run_harness(model, tokenizer, folder, HarnessOptions(("both",), forgotten=("both",)))
        assert set(found.values) == {"both", "letter", "text"}
        each = [found.examples[task, "acc"] for task in ("letter", "text")]
        assert [example.direction for example in each] == ["remembers_above"] * 2
        assert found.values["both"]["acc"] == pytest.approx(np.mean([example.values.mean() for example in each]))
        kept = run_harness(model, tokenizer, folder, HarnessOptions(("letter", "text"), forgotten=("text",)))
        assert kept.examples["letter", "acc"].direction == "useful_above"
        assert kept.examples["text", "acc"].direction == "remembers_above"

    def test_nothing_of_the_caller_is_changed(self, folder, tmp_path, monkeypatch):
        model, tokenizer = random_lm(positions=256).train(), word_tokenizer()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        import datasets
        import lm_eval  # noqa: F401

        offline, cache = datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_CACHE
        random.setstate(random.Random(3).getstate())
        expected = random.Random(3).random()
        numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        run_harness(model, tokenizer, folder, HarnessOptions(("letter",), limit=2))
        assert random.random() == expected
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert model.training and all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        assert (offline, cache) == (datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_CACHE)

    def test_what_is_not_there_is_not_downloaded(self, folder):
        model, tokenizer = random_lm(positions=256), word_tokenizer()
        with pytest.raises(ConfigError, match=r"no task 'leter'.*Did you mean 'letter'"):
            run_harness(model, tokenizer, folder, HarnessOptions(("leter",)))
        with pytest.raises(ConfigError, match="no task 'wmdp_bio'"):  # the Harness's own would be downloaded
            run_harness(model, tokenizer, folder, HarnessOptions(("wmdp_bio",)))
        task = yaml.safe_load((folder / "letter.yaml").read_text())
        away = {**task, "task": "away", "dataset_path": "cais/wmdp", "dataset_kwargs": {}}
        (folder / "away.yaml").write_text(yaml.safe_dump(away))
        with pytest.raises(DataError, match="cannot run its tasks"):
            run_harness(model, tokenizer, folder, HarnessOptions(("away",)))
