"""Memorisation: hand-worked counts, greedy decoding against a loop of one token at a time, and how the two belong
together.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, DataError
from forgetmi.metrics.memorisation import (
    exact_memorisation,
    extraction_strength,
    greedy_answers,
    hardly_known,
    known_by_heart,
    matching_share,
    memorisation_outliers,
    n_verbatim,
    verbatim_prefix,
)
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.tokens import IGNORED, TokenModality
from forgetmi.models.output import ModelOutput
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.tiny import language_case, tiny_causal_lm

CPU = torch.device("cpu")


class Successor(nn.Module):
    """Says that after n comes n + 1."""

    def forward(self, input_ids, attention_mask):
        return ModelOutput(nn.functional.one_hot(input_ids + 1, 32).float())


def loader_of(*sequences: tuple[list[int], int]) -> Loader:
    records = [
        Record(f"s{n}", f"s{n}", f"p{n}", "", {"tokens": {"ids": ids, "answer": start}}, None, "train")
        for n, (ids, start) in enumerate(sequences)
    ]
    dataset = RecordDataset(records, name="by hand", levels=("sample",), modality_kinds={"tokens": "tokens"})
    return Loader(dataset, {"tokens": TokenModality(pad_id=0)})


@pytest.mark.parametrize("size", [1, 2, 5])
def test_counts_by_hand(size: int) -> None:
    loader = loader_of(
        ([3, 4, 5, 6, 7], 1),  # all four
        ([3, 4, 5, 9, 10, 11], 2),  # 5 | not 9 | 10, 11
        ([3, 9, 10, 11], 1),  # wrong at once, then two right
        ([8, 9, 20], 2),  # one token, wrong
    )
    found = token_signals(Successor(), CausalLMTask(), loader.batches(range(4), size), CPU)
    assert found.right.sum(axis=1).tolist() == [4, 3, 2, 0]
    assert n_verbatim(found).tolist() == [4, 1, 0, 0]
    assert found.n_tokens.tolist() == [4, 4, 3, 1]
    assert exact_memorisation(found).values.tolist() == pytest.approx([1.0, 0.75, 2 / 3, 0.0])
    assert verbatim_prefix(found).values.tolist() == pytest.approx([1.0, 0.25, 0.0, 0.0])
    # The last two of 5 | 9 | 10, 11; with nothing right at the end it is 0, where published code gives 1 / tokens.
    assert extraction_strength(found).values.tolist() == pytest.approx([1.0, 0.5, 2 / 3, 0.0])


def test_an_answer_in_two_pieces_breaks_at_its_first_wrong_token_wherever_it_is() -> None:
    ids = torch.tensor([[3, 4, 9, 10, 20]])
    labels = torch.tensor([[IGNORED, 4, IGNORED, 10, 20]])
    batch = loader_of(([3, 4, 9, 10, 20], 1)).batch([0])
    batch.inputs["tokens"]["labels"] = labels
    assert torch.equal(batch.inputs["tokens"]["input_ids"], ids)
    found = token_signals(Successor(), CausalLMTask(), [batch], CPU)
    assert (found.right.tolist(), n_verbatim(found).tolist()) == ([[True, True, False]], [2])


def test_extraction_strength_is_that_of_a_search_over_all_suffixes() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 9, size=200)
    mask = np.arange(8) < lengths[:, None]
    right = (draw.random((200, 8)) < 0.8) & mask
    zeros = np.zeros(mask.shape)
    found = extraction_strength(TokenSignals(mask, zeros, zeros, zeros, right)).values
    for row, length in enumerate(lengths):
        start = next(s for s in range(length + 1) if right[row, s:length].all())
        assert found[row] == pytest.approx(1 - start / length)
    assert {0.0, 1.0} <= set(found)


def one_at_a_time(model: nn.Module, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            row = torch.tensor([ids])
            ids.append(int(model(row, torch.ones_like(row)).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_answers_are_those_of_a_loop_whatever_the_batch(seed: int) -> None:
    loader, model = language_case().loader, tiny_causal_lm(seed).eval()
    whole = loader.batch(range(12)).inputs["tokens"]
    written, true = greedy_answers(model, whole)
    for row in range(12):
        ids, labels = whole["input_ids"][row], whole["labels"][row]
        answer = ids[labels != IGNORED].tolist()
        assert true[row, : len(answer)].tolist() == answer
        assert (true[row, len(answer) :] == IGNORED).all()
        start = int((labels != IGNORED).nonzero()[0])
        assert written[row].tolist() == one_at_a_time(model, ids[:start].tolist(), written.shape[1])
        alone, _ = greedy_answers(model, loader.batch([row]).inputs["tokens"])
        assert alone[0].tolist() == written[row, : alone.shape[1]].tolist()


def test_prompts_of_different_lengths_are_padded_on_the_left() -> None:
    loader, model = loader_of(([3, 4, 5], 1), ([9, 8, 7, 6, 5, 4], 4), ([2, 9, 9, 9, 9], 2)), tiny_causal_lm(3).eval()
    tokens = loader.batch(range(3)).inputs["tokens"]
    written, true = greedy_answers(model, tokens)
    assert true.tolist() == [[4, 5, -100], [5, 4, -100], [9, 9, 9]]
    for row, prompt in enumerate(([3], [9, 8, 7, 6], [2, 9])):
        assert written[row].tolist() == one_at_a_time(model, prompt, 3)


def test_greedy_text_keeps_to_the_truth_exactly_as_long_as_teacher_forcing_says() -> None:
    model = tiny_causal_lm(0).eval()
    sequences = []
    for first in range(1, 9):  # the model's own words, wrong from some token on
        said = one_at_a_time(model, [first, 5], 6)
        broken = [*said[: first - 1], *((token + 1) % 32 for token in said[first - 1 :])]
        sequences.append(([first, 5, *broken], 2))
    loader = loader_of(*sequences)
    batch = loader.batch(range(8))
    found = token_signals(model, CausalLMTask(), [batch], CPU)
    written, true = greedy_answers(model, batch.inputs["tokens"])
    unbroken = (written == true).cumprod(dim=1).sum(dim=1)
    assert unbroken.tolist() == n_verbatim(found).tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert (verbatim_prefix(found).values == 1).tolist() == [False] * 6 + [True] * 2


def test_a_folders_settings_of_generation_play_no_part_and_stay() -> None:
    tokens, model = language_case().loader.batch(range(6)).inputs["tokens"], tiny_causal_lm().train()
    plain, _ = greedy_answers(model, tokens)
    own = model.lm.generation_config
    own.update(do_sample=True, repetition_penalty=5.0, suppress_tokens=plain[0].tolist(), max_length=7)
    own.eos_token_id = int(plain[0, 0])
    again, _ = greedy_answers(model, tokens)
    assert torch.equal(plain, again)
    assert model.lm.generation_config is own
    assert model.training


def test_shares_by_hand() -> None:
    written = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    true = torch.tensor([[1, 2, 3], [4, 9, -100], [8, 7, 9]])
    assert matching_share(written, true).tolist() == pytest.approx([1.0, 0.5, 1 / 3])


@pytest.mark.parametrize("labels", [[IGNORED] * 3, [3, 4, 5]])
def test_no_answer_or_no_prompt_is_refused(labels: list[int]) -> None:
    tokens = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(DataError, match="no answer, or no token before it"):
        greedy_answers(tiny_causal_lm(), {**tokens, "labels": torch.tensor([labels])})


def share(*values: float) -> PerExample:
    return PerExample("g", np.array(values), "remembers_above", "{value}")


def test_outliers_of_both_tails_by_hand() -> None:
    found = memorisation_outliers(share(0.60, 0.59, np.nan, 0.16, 0.15, 1.0, 0.0), share(0.2, np.nan, 0.4))
    assert found.above == (0, 5) and found.below == (4, 6)
    assert found.count == 4 and found.n_records == 6
    assert found.mean == pytest.approx(2.5 / 6) and found.held_out_mean == pytest.approx(0.3)
    assert found.gap == pytest.approx(2.5 / 6 - 0.3)
    assert found.std == pytest.approx(np.std([0.6, 0.59, 0.16, 0.15, 1.0, 0.0]))
    assert json.loads(json.dumps(found.to_dict()))["count"] == 4
    assert memorisation_outliers(share(0.16, 0.59), share(0.5)).count == 0
    assert memorisation_outliers(share(0.16, 0.59), share(0.5), high=0.5, low=0.2).count == 2


def test_outliers_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ConfigError, match="low below high"):
        memorisation_outliers(share(0.5), share(0.5), high=0.1, low=0.2)
    for pair in ((share(np.nan), share(0.5)), (share(0.5), share(np.nan))):
        with pytest.raises(DataError, match="no record"):
            memorisation_outliers(*pair)


def test_the_tails_as_shares_are_the_outliers():
    """Five records of 20 tokens with 0, 3, 4, 12 and 20 of them right: both ends are included."""
    right = np.array([0, 3, 4, 12, 20])
    mask = np.ones((5, 20), dtype=bool)
    zeros = np.zeros((5, 20))
    signals = TokenSignals(mask, zeros, zeros, zeros, np.arange(20) < right[:, None])
    high, low = known_by_heart(signals), hardly_known(signals)
    assert high.values.tolist() == [0, 0, 0, 1, 1] and low.values.tolist() == [1, 1, 0, 0, 0]
    g = exact_memorisation(signals)
    found = memorisation_outliers(g, g)
    assert found.count == high.values.sum() + low.values.sum()
    assert (high.direction, low.direction) == ("remembers_above", "remembers_below")
