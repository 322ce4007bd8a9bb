"""Multiple-choice questions asked without their options: what a model still writes when it is not offered anything.

Choosing an option overstates forgetting (arXiv 2510.07626): a model that was made to forget may choose no better than
chance and still write the answer. So the question alone is asked, the model writes freely, and the text is compared
with the options by ROUGE-L recall, LCS(option, text) / words of the option:

==============  ======================================================================================================
recall          that of the right option
names_right     whether the right option is the one with the highest recall: 1, 1/m where m of them tie, 0 else
==============  ======================================================================================================

*Our readings:* recall, not F1, because what is written runs on behind the answer; a text that shares no word with any
option names none and counts 0, not 1/k, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forgetmi.errors import DataError
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.generation import Decoding, continue_texts
from forgetmi.metrics.multiple_choice import Asking, Question
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats, Ints
from forgetmi.metrics.rouge import rouge
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM

DECODING = Decoding(max_new_tokens=64, stop=("\n",))
_WORDLESS = "its right option has no word"


@dataclass(frozen=True)
class OpenAnswers:
    """What a model wrote after N questions, beside their options.

    Attributes:
        texts: what it wrote.
        recalls: [N, K] of each option; NaN where it has no word to be recalled (a formula), -inf where a question has
            no such option.
        truth: [N], the right option's place.
        definition: how it was asked.
    """

    texts: tuple[str, ...]
    recalls: Floats
    truth: Ints
    definition: str = ""

    def recall(self, direction: Direction = "remembers_above") -> PerExample:
        """How much of the right option's text was written."""
        return PerExample(
            "open_answer_recall",
            self.recalls[np.arange(len(self.truth)), self.truth],
            direction,
            "Asked without options, the model writes {value:.1%} of the right option's words.",
            definition=f"ROUGE-L recall of the right option's text; {self.definition}",
            missing=_WORDLESS,
        )

    def names_right(self, direction: Direction = "remembers_above") -> PerExample:
        """Whether what was written is nearest to the right option."""
        true = (np.arange(len(self.truth)), self.truth)
        recalls = np.where(np.isnan(self.recalls), 0.0, self.recalls)
        best = recalls == recalls.max(axis=1, keepdims=True)
        some = recalls.max(axis=1) > 0
        named = np.where(some, best[true] / best.sum(axis=1), 0.0)
        named = np.where(np.isnan(self.recalls[true]), np.nan, named)
        return PerExample(
            "open_answer_right",
            named,
            direction,
            "Asked without options, what the model writes is nearest to the right one in {value:.1%} of the questions.",
            definition=f"highest ROUGE-L recall among the options; {self.definition}",
            missing=_WORDLESS,
            counts={"n_naming_none": int((~some).sum())},
        )


def open_answers(questions: Sequence[Question], texts: Sequence[str], definition: str = "") -> OpenAnswers:
    """Compare what was written with the options.

    Args:
        questions: N of them.
        texts: what a model wrote after each.
        definition: how it was asked, to stand beside the numbers.

    Raises:
        DataError: not one text a question, or none.
    """
    if len(texts) != len(questions) or not questions:
        raise DataError(f"there are {len(texts)} texts for {len(questions)} questions", expected="one each")
    places = [(row, column) for row, q in enumerate(questions) for column in range(len(q.choices))]
    options = [questions[row].choices[column] for row, column in places]
    recalls = np.full((len(questions), max(len(q.choices) for q in questions)), -np.inf)
    recalls[tuple(np.array(places).T)] = rouge(options, [texts[row] for row, _ in places], kind="rougeL_recall")
    return OpenAnswers(tuple(texts), recalls, np.array([q.answer for q in questions], dtype=np.int64), definition)


def ask_openly(
    model: CausalLM,
    tokenizer: LMTokenizer,
    questions: Sequence[Question],
    *,
    examples: Sequence[Question] = (),
    shots: int = 0,
    decoding: Decoding = DECODING,
    seed: int = 0,
    batch_size: int = 32,
) -> OpenAnswers:
    """Ask the questions alone and compare what the model writes with their options.

    Args:
        model: left in the mode it came in.
        tokenizer: the model's.
        questions: N of them.
        examples, shots: as in :func:`~forgetmi.metrics.choice_scoring.score_choices`; they show the form of an answer.
        decoding: greedy, 64 tokens, to the end of the line by default; one sample.
        seed: of a sampled answer.
        batch_size: speed and memory only.

    Raises:
        DataError: no question, too few examples, a prompt that does not fit, or more than one sample a question.
    """
    if decoding.samples != 1:
        raise DataError(f"{decoding.samples} samples of each answer were asked for", expected="one")
    asking = Asking(form="text", shots=shots)
    prompts = asking.prompts(questions, examples)
    written = continue_texts(model, tokenizer, prompts, decoding, seed=seed, batch_size=batch_size)
    return open_answers(questions, [samples[0] for samples in written], f"{shots} examples, {decoding.words}")
