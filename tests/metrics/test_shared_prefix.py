"""What goes through the model once gives what it gives on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.metrics.shared_prefix import SharedPrefixTask, _shared_part, can_share, score_examples
from forgetmi.metrics.token_signals import token_signals
from forgetmi.modalities.tokens import TokenExample, TokenModality
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.tiny import VOCABULARY, tiny_causal_lm

CPU = torch.device("cpu")


def examples(n=40, seed=0):
    """Few prompts, many answers, some of them twice; one of a single answer token."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        prompt = [1, 2, int(draw.integers(3))]
        answer = draw.integers(1, 4, size=int(draw.integers(1, 7))).tolist()
        ids = torch.tensor(prompt + answer)
        made.append(TokenExample(ids, torch.where(torch.arange(len(ids)) < 3, -100, ids)))
    return made


def one_by_one(model, made):
    modality = TokenModality(pad_id=0)
    batches = [
        Batch({"tokens": modality.collate([e])}, {"tokens": torch.ones(1, dtype=torch.bool)}, None, torch.tensor([0]))
        for e in made
    ]
    return token_signals(model, CausalLMTask(), batches, CPU)


def same(a, b, tolerance):
    assert np.array_equal(a.mask, b.mask)
    assert np.array_equal(a.right, b.right)
    for name in ("nll", "mean_log_p", "std_log_p"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_as_each_text_on_its_own(batch_size):
    model, made = tiny_causal_lm(dtype="float64").train(), examples()
    assert can_share(model)
    found = score_examples(model, TokenModality(pad_id=0), made, batch_size=batch_size)
    same(found, one_by_one(model, made), 1e-12)
    assert model.training
    shuffled = np.random.default_rng(1).permutation(len(made))
    again = score_examples(model, TokenModality(pad_id=0), [made[i] for i in shuffled], batch_size=batch_size)
    same(again, found.take(shuffled), 1e-12)


def test_common_beginnings_go_through_the_model_once(monkeypatch):
    model, made = tiny_causal_lm().eval(), examples()
    tokens = []
    hidden = type(model).hidden

    def counting(self, input_ids, attention_mask, **more):
        tokens.append(input_ids)
        return hidden(self, input_ids, attention_mask, **more)

    monkeypatch.setattr(type(model), "hidden", counting)
    task = SharedPrefixTask()
    batch = Batch({"tokens": TokenModality(pad_id=0).collate(made)}, {"tokens": torch.ones(len(made))}, None,
                  torch.arange(len(made)))  # fmt: skip
    asked = []

    def counted(logits, labels):
        asked.append(len(labels))
        return logits.logsumexp(dim=-1) - logits.gather(-1, labels[:, None])[:, 0]

    with torch.no_grad():
        values, mask = task.over_tokens(counted, batch, task.output(model, batch))
        plain, _ = CausalLMTask().over_tokens(counted, batch, CausalLMTask().output(model, batch))
    torch.testing.assert_close(values, plain, atol=1e-5, rtol=1e-5)
    texts = [example.ids.tolist() for example in made]
    beginnings = {tuple(text[:n]) for text in texts for n in range(1, len(text))}
    assert tokens[0].numel() < 1.3 * len(beginnings)  # rows are filled up to one length
    assert asked[0] <= len({tuple(text[:n]) for text in texts for n in range(4, len(text) + 1)}) < asked[-1]
    assert asked[-1] == int(mask.sum())


def test_texts_with_little_in_common_are_not_put_into_trees(monkeypatch):
    assert _shared_part([[1, 2, 3], [1, 2, 4, 5], [2]]) == 2 / 8
    monkeypatch.setattr("forgetmi.metrics.shared_prefix.can_share", lambda model: pytest.fail("nothing to share"))
    draw = np.random.default_rng(2)
    ids = [torch.from_numpy(draw.integers(1, VOCABULARY, size=int(n))) for n in draw.integers(4, 12, size=10)]
    made = [TokenExample(row, row) for row in ids]
    model = tiny_causal_lm(dtype="float64")
    same(score_examples(model, TokenModality(pad_id=0), made, batch_size=4), one_by_one(model, made), 1e-12)


def test_a_model_that_cannot_share_is_scored_text_by_text():
    model, made = tiny_causal_lm(dtype="float64"), examples(12)
    expected = one_by_one(model, made)
    model.lm.config.layer_types = ["sliding_attention", "full_attention"]
    assert not can_share(model)
    same(score_examples(model, TokenModality(pad_id=0), made), expected, 1e-12)


@pytest.mark.parametrize("window", ["sliding_window", "window_size", "attention_chunk_size"])
def test_a_model_with_a_window_is_scored_text_by_text(window):
    model = tiny_causal_lm()
    assert can_share(model)
    setattr(model.lm.config, window, 8)
    assert not can_share(model)


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch):
    model = tiny_causal_lm()
    whole = model.lm.base_model.forward

    def blind(*args, attention_mask=None, **more):
        return whole(*args, attention_mask=torch.ones_like(more["input_ids"]), **more)

    monkeypatch.setattr(model.lm.base_model, "forward", blind)
    model._splits = True
    assert not can_share(model)
