"""One pass over answers' tokens: laws worked by hand, metrics by hand, and nothing that batches could change."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import AuditError, DataError, ModelError
from forgetmi.metrics import token_signals as ts
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.output import ModelOutput
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.tiny import language_case, tiny_causal_lm

CPU = torch.device("cpu")
LN2 = math.log(2)


def by_hand(
    *rows: list[float], right: list[list[int]] | None = None, law: tuple[float, float] = (0, 1)
) -> TokenSignals:
    """Of answers with these nll's; every law has this mean and sd of log p."""
    mask = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
    nll, hits = np.zeros(mask.shape), np.zeros(mask.shape, dtype=bool)
    nll[mask] = np.concatenate(rows)
    if right:
        hits[mask] = np.concatenate(right)
    return TokenSignals(mask, nll, np.where(mask, law[0], 0.0), np.where(mask, law[1], 0.0), hits)


def loader_of(*sequences: tuple[list[int], int]) -> Loader:
    records = [
        Record(f"s{n}", f"s{n}", f"p{n}", "", {"tokens": {"ids": ids, "answer": start}}, None, "train")
        for n, (ids, start) in enumerate(sequences)
    ]
    dataset = RecordDataset(records, name="by hand", levels=("sample",), modality_kinds={"tokens": "tokens"})
    return Loader(dataset, {"tokens": TokenModality(pad_id=0)})


class Law(nn.Module):
    """Says the same of every token."""

    def __init__(self, *p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, input_ids, attention_mask):
        return ModelOutput(torch.tensor(self.p, dtype=torch.float64).log().expand(*input_ids.shape, -1))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_pass_by_hand(size: int) -> None:
    loader = loader_of(([0, 1, 0, 2], 1), ([2, 2, 0], 2), ([1, 0], 1))
    model = Law(1 / 2, 1 / 4, 1 / 4, 0).train()  # the last token is impossible: 0 log 0 = 0
    found = token_signals(model, CausalLMTask(), loader.batches(range(3), size), CPU)
    assert model.training
    assert found.mask.tolist() == [[True] * 3, [True, False, False], [True, False, False]]
    assert found.n_tokens.tolist() == [3, 1, 1]
    assert found.right.tolist() == [[False, True, False], [True, False, False], [True, False, False]]
    np.testing.assert_allclose(found.nll, np.array([[2, 1, 2], [1, 0, 0], [1, 0, 0]]) * LN2, rtol=1e-12)
    # log p is -ln 2 and -2 ln 2, each with probability 1/2.
    np.testing.assert_allclose(found.mean_log_p, -1.5 * LN2 * found.mask, rtol=1e-12)
    np.testing.assert_allclose(found.std_log_p, 0.5 * LN2 * found.mask, rtol=1e-12)


def test_batches_padding_order_and_chunks_change_nothing() -> None:
    loader, model = language_case().loader, tiny_causal_lm(dtype="float64")
    whole = token_signals(model, CausalLMTask(), loader.batches(range(12), 12), CPU)
    assert len(set(whole.n_tokens.tolist())) > 1
    for size, max_logits in ((1, 2**20), (5, 2**20), (12, 1), (4, 32 * 7)):
        again = token_signals(model, CausalLMTask(max_logits=max_logits), loader.batches(range(12), size), CPU)
        for name, values in vars(whole).items():
            np.testing.assert_allclose(getattr(again, name), values, rtol=1e-10, atol=1e-14)
    order = [7, 0, 11, 3]
    some = token_signals(model, CausalLMTask(), loader.batches(order, 2), CPU)
    width = some.mask.shape[1]
    np.testing.assert_allclose(some.nll, whole.take(order).nll[:, :width], rtol=1e-10)
    np.testing.assert_allclose(ts.min_k_plus_plus(some, 0.4), ts.min_k_plus_plus(whole, 0.4)[order], rtol=1e-10)


def test_nothing_to_score_and_a_broken_model_are_errors() -> None:
    with pytest.raises(DataError, match="no record"):
        token_signals(Law(0.5, 0.5), CausalLMTask(), [], CPU)
    with pytest.raises(ModelError, match="not finite"):
        token_signals(Law(0.5, math.nan), CausalLMTask(), [loader_of(([0, 1], 1)).batch([0])], CPU)


def test_likelihoods_by_hand() -> None:
    signals = by_hand([1 * LN2, 3 * LN2], [2 * LN2], [LN2, LN2, LN2, LN2])
    assert ts.nll(signals).values == pytest.approx([4 * LN2, 2 * LN2, 4 * LN2])
    assert ts.mean_nll(signals).values == pytest.approx([2 * LN2, 2 * LN2, LN2])
    assert ts.probability(signals).values == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert ts.perplexity(signals).values == pytest.approx([4, 4, 2])
    assert ts.likelihood(signals) == pytest.approx([-2 * LN2, -2 * LN2, -LN2])
    patients, rng = np.arange(3), np.random.default_rng(0)
    assert ts.perplexity(signals).figure(patients, rng).value == pytest.approx(10 / 3)
    whole = ts.part_perplexity(signals, patients, rng)  # 10 ln 2 over 7 tokens
    assert whole.value == pytest.approx(2 ** (10 / 7)) and whole.counts == {"n_tokens": 7}
    assert whole.interval.low is not None and 2 <= whole.interval.low < whole.value < whole.interval.high
    with pytest.raises(AuditError, match="patients for 3 records"):
        ts.part_perplexity(signals, np.arange(2), rng)


def test_a_destroyed_models_perplexity_is_finite_and_counted() -> None:
    signals = by_hand([5000.0], [1.0])
    found = ts.perplexity(signals)
    assert np.isfinite(found.values).all() and found.counts == {"n_overflowing": 1}
    whole = ts.part_perplexity(signals, np.arange(2), np.random.default_rng(0)).value
    assert whole is not None and math.isfinite(whole)
    assert ts.probability(signals).values[0] == 0


def test_without_its_last_token_an_answer_of_one_has_no_value() -> None:
    signals = by_hand([1.0, 2.0, 9.0], [5.0], right=[[1, 1, 1], [1]]).without_last()
    assert signals.n_tokens.tolist() == [2, 0]
    assert ts.nll(signals).values.tolist()[0] == 3 and np.isnan(ts.nll(signals).values[1])
    for values in (ts.probability(signals).values, ts.min_k(signals, 0.5), ts.min_k_plus_plus(signals, 0.5)):
        assert np.isnan(values).tolist() == [False, True]
    assert not signals.right[0, 2] and signals.nll[0, 2] == 0


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (0.2, [-4.0, -7.0]),  # floor(.8) = 0 tokens: one all the same
        (0.5, [-3.5, -7.0]),
        (0.75, [-3.0, -7.0]),
        (1.0, [-2.5, -7.0]),  # the mean log-likelihood
    ],
)
def test_min_k_by_hand(k: float, expected: list[float]) -> None:
    signals = by_hand([3.0, 1.0, 4.0, 2.0], [7.0], law=(-2.0, 0.5))
    assert ts.min_k(signals, k) == pytest.approx(expected)
    assert ts.min_k_plus_plus(signals, k) == pytest.approx((np.array(expected) + 2) / 0.5)


def test_a_product_that_means_a_whole_number_is_one() -> None:
    signals = by_hand(list(range(100, 0, -1)))
    assert ts.min_k(signals, 0.29)[0] == pytest.approx(-np.mean(range(72, 101)))


def test_a_uniform_law_says_nothing_and_is_counted() -> None:
    loader = loader_of(([0, 1, 2, 3], 1), ([0, 3], 1))
    found = token_signals(Law(*[0.25] * 4), CausalLMTask(), [loader.batch([0, 1])], CPU)
    assert ts.min_k_plus_plus(found, 1.0) == pytest.approx([0, 0], abs=1e-9)
    assert ts.n_without_spread(found).tolist() == [3, 1]
    assert ts.n_without_spread(by_hand([1.0, 1.0], law=(-1, 0.5))).tolist() == [0]


@pytest.mark.parametrize("k", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(k: float) -> None:
    with pytest.raises(AuditError, match="k is"):
        ts.min_k(by_hand([1.0]), k)


def test_zlib_and_reference_by_hand() -> None:
    texts = ["a" * 100, "Größe"]
    lengths = ts.zlib_lengths(texts)
    assert lengths.tolist() == [len(zlib.compress(text.encode("utf-8"))) for text in texts]
    signals = by_hand([2.0, 4.0], [1.0])
    assert ts.zlib_ratio(signals, lengths) == pytest.approx([-3 / lengths[0], -1 / lengths[1]])
    with pytest.raises(AuditError, match="zlib"):
        ts.zlib_ratio(signals, lengths[:1])
    reference = by_hand([5.0, 5.0], [0.5])
    assert ts.reference_difference(signals, reference) == pytest.approx([2.0, -0.5])
    with pytest.raises(AuditError, match="different tokens"):
        ts.reference_difference(signals, by_hand([5.0, 5.0], [0.5, 1.0]))
