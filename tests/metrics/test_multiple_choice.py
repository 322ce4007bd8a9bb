"""Multiple choice by likelihood: against laws that are known, and one question at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from forgetmi.data_adapters.mmlu import Mmlu
from forgetmi.data_adapters.wmdp import Wmdp
from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.multiple_choice import Asking, Choices, Question, questions_of
from tests.data_adapters import text_sets
from tests.metrics.choice_files import ID, WORDS, constant_lm, quiz, random_lm, word_tokenizer

TEXT = Asking(form="text")


def choices(scores, truth, subjects=None):
    return Choices(np.array(scores, dtype=float), np.array(truth), tuple(subjects or [""] * len(truth)))


# ---- what is made of scores


def test_right_wrong_and_tied_options_by_hand():
    found = choices([[-1, -2, -3], [-1, -2, -3], [-1, -1, -3], [-1, -1, -1], [-2, -2, -1]], [0, 1, 1, 2, 0])
    assert found.correct.tolist() == [1.0, 0.0, 0.5, pytest.approx(1 / 3), 0.0]
    example = found.accuracy()
    assert example.counts == {"n_tied": 2} and "33.3%" in example.sentence
    figure = example.figure(np.arange(5), np.random.default_rng(0))
    assert figure.value == pytest.approx((1.5 + 1 / 3) / 5) and figure.direction == "remembers_above"
    assert found.accuracy("useful_above").direction == "useful_above"


def test_questions_with_fewer_options_and_their_chance():
    found = choices([[-1, -2, -3, -4], [-1, -2, -math.inf, -math.inf]], [0, 1])
    assert found.n_options.tolist() == [4, 2] and found.chance == pytest.approx((1 / 4 + 1 / 2) / 2)
    odds = np.exp([-1.0, -2.0])
    np.testing.assert_allclose(found.probability[1], [*(odds / odds.sum()), 0, 0])
    assert found.true_probability().values == pytest.approx(found.probability[[0, 1], [0, 1]])


def test_each_subject_has_its_own_figure_and_all_questions_weigh_alike():
    found = choices([[0, -1]] * 5, [0, 0, 1, 0, 1], ["x", "x", "x", "y", "y"])
    figures = found.figures(np.random.default_rng(0))
    assert {name: figure.value for name, figure in figures.items()} == {
        "all": pytest.approx(3 / 5), "x": pytest.approx(2 / 3), "y": pytest.approx(1 / 2)}  # fmt: skip
    assert [figures[name].n_samples for name in ("all", "x", "y")] == [5, 3, 2]
    with pytest.raises(DataError, match="no question"):
        found.accuracy(subject="z")


def test_calibration_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = choices(np.log(p), [0, 1, 0, 0]).calibration(bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]  # (0.5, 0.6] and (0.8, 0.9]
    assert found.error == pytest.approx(0.5 * abs(1.0 - 0.6) + 0.5 * abs(0.5 - 0.9))
    said = found.to_dict()
    assert said["accuracy"][5] == 1.0 and said["accuracy"][0] is None
    sure = choices([[0.0, -1e9], [0.0, -1e9]], [0, 0]).calibration()
    assert sure.error == 0.0 and sure.counts[-1] == 2


# ---- how questions are asked


def test_prompts_are_written_as_the_harness_writes_them():
    question = Question("Which town? ", ("Red", "Blue"), 1, "old_town")
    shot = Question("What?", ("No", "Yes"), 0, "old_town")
    assert Asking(shots=1).prompts([question], [shot]) == [
        "The following are multiple choice questions (with answers) about old town.\n\n"
        "What?\nA. No\nB. Yes\nAnswer: A\n\nWhich town?\nA. Red\nB. Blue\nAnswer:"
    ]
    assert Asking(form="text", shots=1).prompts([question], [shot]) == [
        "The following are questions (with answers) about old town.\n\n"
        "Question: What?\nAnswer: No\n\nQuestion: Which town?\nAnswer:"
    ]
    assert Asking().prompts([Question("Q", ("a", "b"), 0)]) == ["Q\nA. a\nB. b\nAnswer:"]  # no subject, no header
    assert Asking(header="{subject}! ").prompts([Question("Q", ("a", "b"), 0, "bio")])[0].startswith("biology! Q")
    with pytest.raises(DataError, match="1 examples of the subject 'old_town'"):
        Asking(shots=2).prompts([question], [shot, Question("Q", ("a", "b"), 0, "bio")])


# ---- a model's scores


def test_a_model_without_an_opinion_scores_chance_exactly_wherever_the_right_options_stand():
    for truth in ([0] * 8, [3] * 8, [0, 1, 2, 3] * 2):
        asked = [Question(q.text, q.choices, t, q.subject) for q, t in zip(quiz(), truth, strict=True)]
        found = score_choices(constant_lm({}), word_tokenizer(), asked)
        assert found.accuracy().values.mean() == 0.25 == found.chance
        assert found.accuracy().counts == {"n_tied": 8}
        np.testing.assert_allclose(found.scores, -math.log(len(WORDS)), rtol=1e-6)


def test_letters_have_the_likelihood_that_the_law_gives_them():
    found = score_choices(constant_lm({"C": 3.0, "B": 1.0}), word_tokenizer(), quiz())
    total = math.exp(3) + math.exp(1) + len(WORDS) - 2
    np.testing.assert_allclose(
        found.scores, np.tile(np.log([1, math.e, math.e**3, 1]) - math.log(total), (8, 1)), rtol=1e-5
    )
    assert found.correct.tolist() == [0, 0, 1, 0] * 2  # it always says C


def test_texts_are_scored_by_the_sum_of_their_own_tokens_or_by_byte():
    law = {"red": 2.0, "town": 1.0, "new": 3.0, "</s>": 5.0}
    total = sum(map(math.exp, law.values())) + len(WORDS) - len(law)
    logits = {"red town": [2, 1], "blue": [0], "green old town": [0, 0, 1], "new": [3]}
    sums = np.array([sum(z) - len(z) * math.log(total) for z in logits.values()])  # nothing of </s> in it
    model, tokenizer = constant_lm(law), word_tokenizer()
    np.testing.assert_allclose(score_choices(model, tokenizer, quiz(), TEXT).scores, np.tile(sums, (8, 1)), rtol=1e-5)
    by_byte = score_choices(model, tokenizer, quiz(), Asking(form="text", normalise="bytes"))
    np.testing.assert_allclose(by_byte.scores, np.tile(sums / [8, 4, 14, 3], (8, 1)), rtol=1e-5)


def test_bytes_are_those_of_utf8():
    asked = [Question("which town", ("red", "é"), 0)]
    found = score_choices(constant_lm({}), word_tokenizer(), asked, Asking(form="text", normalise="bytes"))
    np.testing.assert_allclose(found.scores, [[-math.log(len(WORDS)) / 3, -math.log(len(WORDS)) / 2]], rtol=1e-5)


@pytest.mark.parametrize("asking", [Asking(), Asking(shots=1), TEXT, Asking(form="text", shots=2)], ids=str)
@pytest.mark.parametrize("bos", [True, False])
def test_one_question_at_a_time_without_padding_says_the_same(asking, bos):
    """Against a plain forward pass of transformers, option by option."""
    model, tokenizer, asked = random_lm(), word_tokenizer(bos=bos), quiz()
    examples = quiz(8, ("new", "red", "blue", "old"))
    found = score_choices(model, tokenizer, asked, asking, examples=examples, batch_size=3)
    for row, (prompt, question) in enumerate(zip(asking.prompts(asked, examples), asked, strict=True)):
        before = tokenizer.encode(prompt, special=True)[0]
        for column, text in enumerate(question.choices if asking.form == "text" else "ABCD"):
            option = tokenizer.encode(text, special=False)[0]
            with torch.no_grad():
                law = model.lm(torch.tensor([before + option])).logits[0].log_softmax(-1)
            expected = sum(float(law[len(before) - 1 + i, token]) for i, token in enumerate(option))
            assert found.scores[row, column] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("asking", [Asking(), TEXT], ids=str)
def test_batches_and_order_change_nothing(asking):
    model, tokenizer = random_lm(), word_tokenizer()
    asked = [*quiz(6), *quiz(3, ("red", "blue old"))]
    whole = score_choices(model, tokenizer, asked, asking, batch_size=100)
    for size in (1, 4):
        other = score_choices(model, tokenizer, asked[::-1], asking, batch_size=size)
        np.testing.assert_allclose(other.scores[::-1], whole.scores, atol=1e-5)
    assert np.isinf(whole.scores[6:, 2:]).all() and np.isfinite(whole.scores[:6]).all()
    assert not any(module.training for module in model.modules())
    model.train()
    np.testing.assert_allclose(score_choices(model, tokenizer, asked, asking).scores, whole.scores, atol=1e-5)
    assert model.training, "the model is left in the mode it came in"


def test_a_letter_is_read_with_one_pass_a_question():
    model, rows = random_lm(), []
    model.lm.transformer.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    score_choices(model, word_tokenizer(), quiz(8), batch_size=4)
    assert rows == [4, 4]


def test_examples_in_common_go_through_the_model_once():
    model, tokenizer, tokens = random_lm(), word_tokenizer(), []
    model.lm.transformer.register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    asked, asking = [replace(q, subject="bio") for q in quiz(8)], Asking(shots=3)
    score_choices(model, tokenizer, asked, asking, examples=asked)
    whole = sum(len(tokenizer.encode(prompt, special=True)[0]) for prompt in asking.prompts(asked, asked))
    assert max(tokens) < whole / 2  # the others are trials of whether the model takes trees


# ---- questions from data


def test_questions_come_from_wmdp_and_from_both_forms_of_mmlu(tmp_path):
    data = Wmdp(text_sets.write_wmdp(tmp_path), part="questions").load()
    asked = questions_of(data)
    assert [q.answer for q in asked] == [0, 1, 2] and {q.subject for q in asked} == {"cyber"}
    assert asked[1].text == "Which town sells mirror 1?" and asked[1].right == "Brindisi"
    assert questions_of(data, [2]) == asked[2:]
    with pytest.raises(DataError, match="no multiple-choice question"):
        questions_of(Wmdp(tmp_path).load())
    text_sets.write_mmlu(tmp_path / "csv")
    rows = [{**row, "subject": name} for name, part in text_sets.mmlu_questions().items() for row in part]
    text_sets.write_lines(tmp_path / "lines" / "test.jsonl", rows)
    text_sets.write_parquet(tmp_path / "parquet" / "all" / "test-00000-of-00001.parquet", rows)
    for name, part in text_sets.mmlu_questions().items():
        text_sets.write_parquet(tmp_path / "folders" / name / "test-00000-of-00001.parquet", part)
    first, *others = [questions_of(Mmlu(tmp_path / form).load()) for form in ("csv", "lines", "parquet", "folders")]
    assert len(first) == 5 and all(other == first for other in others)
    assert [(q.subject, q.answer) for q in first] == [
        *(("abstract_algebra", n) for n in range(3)),
        *(("virology", n) for n in range(2)),
    ]
    assert [q.subject for q in questions_of(Mmlu(tmp_path / "csv", part="dev").load())] == ["abstract_algebra"]
    only = Mmlu(tmp_path / "lines", subjects=("virology",)).load()
    assert len(only) == 2 and only.skipped.total == 3


def test_what_is_wrong_with_mmlu_files_is_said(tmp_path):
    path = text_sets.write_mmlu(tmp_path) / "test" / "virology_test.csv"
    with pytest.raises(DataError, match=r"virologi.*Did you mean 'virology'"):
        Mmlu(tmp_path, subjects=("virologi",)).load()
    path.write_text('"What, 1?",a,b,c,d,A\nWhat?,a,b,c,d,F\n')
    with pytest.raises(DataError, match="1 values of 'answer'") as caught:
        Mmlu(tmp_path).load()
    assert caught.value.where == "virology_test.csv:2"
    path.write_text("What?,a,b,A\n")
    with pytest.raises(DataError, match=r"1 rows of virology_test\.csv are no questions"):
        Mmlu(tmp_path).load()
    with pytest.raises(DataError, match="set validation is not there"):
        Mmlu(tmp_path, part="validation").load()
    text_sets.write_lines(tmp_path / "b" / "test.jsonl", text_sets.wmdp_questions())
    with pytest.raises(DataError, match="'subject'"):
        Mmlu(tmp_path / "b").load()


# ---- what is refused


def test_what_cannot_be_asked_is_refused():
    model, tokenizer = random_lm(), word_tokenizer()
    with pytest.raises(ConfigError) as caught:
        Asking(form="letters", normalise="words", shots=-1)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="equally long"):
        Asking(normalise="bytes")
    with pytest.raises(DataError, match="no question"):
        score_choices(model, tokenizer, [])
    with pytest.raises(ConfigError, match="batch_size"):
        score_choices(model, tokenizer, quiz(), batch_size=0)
    for right in (-1, 2):
        with pytest.raises(DataError, match="2 options"):
            Question("Q", ("a", "b"), right)
    for asking in (Asking(), TEXT):
        with pytest.raises(DataError, match="do not fit"):
            score_choices(random_lm(positions=12), tokenizer, quiz(), asking)


def test_letters_that_are_no_tokens_of_their_own_are_refused_not_scored():
    few = tuple(word for word in WORDS if word not in "BCDE")
    with pytest.raises(ModelError, match="one token each"):
        score_choices(random_lm(), word_tokenizer(words=few), quiz())
    assert ID["A"] == 4


def test_a_broken_model_is_no_score():
    for asking in (Asking(), TEXT):
        with pytest.raises(ModelError, match="not finite"):
            score_choices(constant_lm({"A": math.nan}), word_tokenizer(), quiz(), asking)
