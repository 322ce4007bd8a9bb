"""Likelihoods of a language model: sums over answer tokens, whatever stands around them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.batch import Batch, Loader
from forgetmi.errors import DataError
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.scoring import collect_signals
from tests.tiny import tiny_gpt2, tiny_sequences

TASK = CausalLMTask()


def tokens(ids, labels, attention=None) -> Batch:
    ids, labels = torch.tensor(ids), torch.tensor(labels)
    mask = torch.ones_like(ids) if attention is None else torch.tensor(attention)
    inputs = {"tokens": {"input_ids": ids, "attention_mask": mask, "labels": labels}}
    return Batch(inputs, {"tokens": torch.ones(len(ids), dtype=torch.bool)}, None, torch.arange(50, 50 + len(ids)))


def certain(ids, classes=4, probability=0.7):
    """Logits that give each next token the stated probability."""
    logits = torch.full((len(ids), len(ids[0]), classes), (1 - probability) / (classes - 1)).log()
    for i, row in enumerate(ids):
        for t in range(len(row) - 1):
            logits[i, t, row[t + 1]] = torch.tensor(probability).log()
    return ModelOutput(logits)


def test_the_sum_over_answer_tokens_by_hand():
    """Logits at t predict the token at t + 1; the first token is predicted by nothing."""
    ids = [[0, 1, 2, 3], [3, 2, 1, 0]]
    labels = [[-100, -100, 2, 3], [3, 2, 1, 0]]  # two answer tokens; four, of which the first cannot be predicted
    log = -torch.tensor(0.7).log().item()
    batch, output = tokens(ids, labels), certain(ids)
    assert TASK.nll_of(output, batch).tolist() == pytest.approx([2 * log, 3 * log], rel=1e-6)
    signals = TASK.signals(output, batch)
    assert signals["n_tokens"].tolist() == [2, 3]
    assert signals["nll"].tolist() == pytest.approx([2 * log, 3 * log], rel=1e-6)
    losses, mask = TASK.token_nll_of(output, batch)
    assert mask.tolist() == [[False, True, True], [True, True, True]] and losses.shape == (2, 3)


def test_a_shifted_target_would_be_seen():
    ids = [[0, 1, 2, 3]]
    wrong = certain([[9, 0, 1, 2]], classes=10)  # right for the token itself, not for the next
    assert TASK.nll_of(wrong, tokens(ids, ids))[0] > 3 * -torch.tensor(0.1).log()


def test_the_loss_is_the_mean_over_answer_tokens_as_transformers_computes_it():
    model, loader = tiny_gpt2().eval(), Loader(tiny_sequences(), {"tokens": TokenModality(0)})
    batch = loader.batch(range(6))
    expected = model(**batch.inputs["tokens"]).loss
    torch.testing.assert_close(TASK.loss(model, batch), expected)


def test_nll_depends_on_no_padding_batch_size_or_order():
    model, loader = tiny_gpt2(), Loader(tiny_sequences(), {"tokens": TokenModality(0)})
    device = torch.device("cpu")

    def nll(indices, size):
        values = collect_signals(model, TASK, loader, indices, batch_size=size, device=device)["nll"]
        return dict(zip(indices, values.tolist(), strict=True))

    alone = nll(range(20), 1)
    assert nll(range(20), 7) == pytest.approx(alone, rel=1e-5)
    assert nll(list(reversed(range(20))), 20) == pytest.approx(alone, rel=1e-5)
    assert len({round(v, 4) for v in alone.values()}) > 15


def test_a_record_without_an_answer_token_is_named():
    ids = [[1, 2, 3], [1, 2, 3]]
    TASK.check_labels(tokens(ids, [[-100, 2, 3], [-100, -100, 3]]))
    with pytest.raises(DataError, match="1 records have no answer token") as caught:
        TASK.check_labels(tokens(ids, [[-100, 2, 3], [1, -100, -100]]))  # the first token cannot be an answer
    assert "position 51" in caught.value.where


def test_a_batch_of_another_kind_is_refused():
    batch = tokens([[1, 2]], [[1, 2]])
    with pytest.raises(DataError, match="no 'words' input"):
        CausalLMTask("words").check_labels(batch)
    with pytest.raises(DataError, match="no 'tokens' input"):
        TASK.nll_of(certain([[1, 2]]), replace(batch, inputs={"tokens": torch.zeros(1, 2)}))


def test_scoring_leaves_the_model_as_it_was():
    model, loader = tiny_gpt2().train(), Loader(tiny_sequences(), {"tokens": TokenModality(0)})
    first = collect_signals(model, TASK, loader, range(4), batch_size=2, device=torch.device("cpu"))["nll"]
    again = collect_signals(model, TASK, loader, range(4), batch_size=4, device=torch.device("cpu"))["nll"]
    assert first == pytest.approx(again, rel=1e-6) and model.training
