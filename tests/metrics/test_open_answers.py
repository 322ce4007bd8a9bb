"""Questions asked without their options: what was written, against the options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgetmi.errors import DataError
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.multiple_choice import Question
from forgetmi.metrics.open_answers import ask_openly, open_answers
from tests.metrics.choice_files import constant_lm, quiz, random_lm, word_tokenizer

OPTIONS = ("the red town", "a blue town", "nowhere")


def test_recall_and_the_nearest_option_by_hand():
    questions = [Question("Where?", OPTIONS, right) for right in (0, 0, 2, 0, 1)]
    texts = ["It is the red town, I think.", "in a blue town", "no word of these", "a town", "a TOWN"]
    found = open_answers(questions, texts)
    np.testing.assert_allclose(found.recall().values, [1, 1 / 3, 0, 1 / 3, 2 / 3])
    assert found.names_right().values.tolist() == [1, 0, 0, 0, 1]
    assert found.names_right().counts == {"n_naming_none": 1}
    tied = open_answers([Question("Where?", ("red town", "blue town"), 0)], ["town"])
    assert tied.names_right().values.tolist() == [0.5]


def test_an_option_without_words_has_no_recall():
    found = open_answers([Question("Which?", ("+", "red"), 0), Question("Which?", ("+", "red"), 1)], ["red", "red"])
    assert np.isnan(found.recall().values[0]) and np.isnan(found.names_right().values[0])
    assert found.recall().values[1] == found.names_right().values[1] == 1.0
    assert found.recall().figure(np.arange(2), np.random.default_rng(0)).counts["n_without_value"] == 1


def test_a_model_that_lost_the_letter_may_still_write_the_answer():
    """Why the two stand beside each other: choice says forgotten, the open answer says it is there."""
    model, tokenizer = constant_lm({"A": 9.0, "blue": 9.5}), word_tokenizer()
    asked = [Question("which town?", ("red", "blue", "green", "new"), 1)] * 4
    assert score_choices(model, tokenizer, asked).accuracy().values.mean() == 0.0
    found = ask_openly(model, tokenizer, asked, decoding=Decoding(max_new_tokens=3))
    assert found.texts == ("blue blue blue",) * 4
    assert found.names_right().values.mean() == 1.0 and found.recall("useful_above").direction == "useful_above"


def test_what_is_written_is_the_greedy_continuation_of_the_question_alone():
    model, tokenizer, asked = random_lm(), word_tokenizer(), quiz(5)
    found = ask_openly(model, tokenizer, asked, examples=quiz(8), shots=1, decoding=Decoding(max_new_tokens=2))
    for question, text in zip(asked, found.texts, strict=True):
        shot = next(q for q in quiz(8) if q.subject == question.subject)
        about = {"bio": "biology", "old_town": "old town"}[question.subject]
        header = f"The following are questions (with answers) about {about}."
        prompt = f"{header}\n\nQuestion: {shot.text}\nAnswer: {shot.right}\n\nQuestion: {question.text}\nAnswer:"
        ids = tokenizer.encode(prompt, special=True)[0]
        written: list[int] = []
        while len(written) < 2:
            token = int(model.lm(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == tokenizer.eos_id:
                break
            written.append(token)
        assert text == tokenizer.decode(written)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="1 texts for 2 questions"):
        open_answers(quiz(2), ["red"])
    with pytest.raises(DataError, match="0 texts for 0"):
        open_answers([], [])
    with pytest.raises(DataError, match="2 samples"):
        ask_openly(random_lm(), word_tokenizer(), quiz(2), decoding=Decoding(temperature=1.0, samples=2))
