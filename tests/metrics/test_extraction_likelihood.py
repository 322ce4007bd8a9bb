"""EL_n against its definition with one greedy call a token; texts worked by hand; what may change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError, DataError
from forgetmi.metrics import branches
from forgetmi.metrics.extraction_likelihood import _overlap, _shared, extraction_likelihood
from forgetmi.metrics.memorisation import exact_memorisation
from forgetmi.metrics.token_signals import token_signals
from forgetmi.modalities.tokens import IGNORED, TokenModality
from forgetmi.models.causal_lm import CausalLM, build_causal_lm
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.seeds import scoped_seed
from tests.tiny import VOCABULARY, tiny_causal_lm

CPU, MAX_N = torch.device("cpu"), 5
Texts = Sequence[tuple[list[int], int]]
"""Ids, and where the answer starts: 0 in a plain text."""


def loader_of(texts: Texts) -> Loader:
    records = [
        Record(f"s{n:02d}", f"s{n:02d}", f"p{n:02d}", "", {"tokens": {"ids": ids, "answer": start}}, None, "train")
        for n, (ids, start) in enumerate(texts)
    ]
    dataset = RecordDataset(records, name="by hand", levels=("sample",), modality_kinds={"tokens": "tokens"})
    return Loader(dataset, {"tokens": TokenModality(pad_id=0)})


def one_at_a_time(model: nn.Module, prompt: list[int], n: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            row = torch.tensor([ids])
            ids.append(int(model(row, torch.ones_like(row)).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def by_definition(model: nn.Module, ids: list[int], start: int) -> list[float]:
    """EL_1 ... of one text: a greedy continuation of every prefix, and n-grams counted as they are written."""
    offsets = range(max(start, 1), len(ids))
    said = {offset: one_at_a_time(model, ids[:offset], len(ids) - offset) for offset in offsets}
    values = []
    for n in range(1, MAX_N + 1):
        shares = []
        for offset in offsets:
            true = ids[offset:]
            there = {tuple(true[i : i + n]) for i in range(len(true) - n + 1)}
            mine = [tuple(said[offset][i : i + n]) for i in range(len(true) - n + 1)]
            if mine:
                shares.append(sum(gram in there for gram in mine) / len(mine))
        values.append(float(np.mean(shares)) if shares else np.nan)
    return values


def some_texts(model: nn.Module, seed: int) -> list[tuple[list[int], int]]:
    """Random ones, the model's own words, and its own with errors in them: plain texts and answers, 2 to 16 tokens."""
    draw = np.random.default_rng(seed)
    texts: list[tuple[list[int], int]] = []
    for n in range(6):
        length, start = int(draw.integers(4, 17)), (0, 0, 1, 3)[n % 4]
        ids = draw.integers(1, VOCABULARY, size=length).tolist()
        if n % 3:
            ids = ids[:2] + one_at_a_time(model, ids[:2], length - 2)
        if n % 3 == 2:
            ids[int(draw.integers(2, length))] = int(draw.integers(1, VOCABULARY))
        texts.append((ids, start))
    return [*texts, ([3, 4], 1), ([5, 9], 0), ([3, 4, *one_at_a_time(model, [3, 4], 8)], 2)]


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
    },
    # Forgets what is 6 tokens back: its keys and values cannot be branched off from, so prefixes are read again.
    "mistral": {
        "model_type": "mistral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16, "sliding_window": 6,
    },
}  # fmt: skip


def model_of(kind: str, seed: int, dtype: str = "float64") -> CausalLM:
    config = {**ARCHITECTURES[kind], "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    model = build_causal_lm({"config": config, "dtype": dtype}, seed)
    with scoped_seed(seed), torch.no_grad():  # louder, so that it says different things of different texts
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize(("kind", "seed"), [("gpt2", 0), ("gpt2", 1), ("llama", 0), ("mistral", 0)])
def test_values_are_those_of_a_greedy_call_from_every_token(kind: str, seed: int) -> None:
    model = model_of(kind, seed)
    texts = some_texts(model, seed)
    batches = loader_of(texts).batches(range(len(texts)), 6)
    found = extraction_likelihood(model.train(), CausalLMTask(), batches, CPU, max_n=MAX_N, batch_size=7)
    assert model.training
    model.eval()
    expected = [by_definition(model, ids, start) for ids, start in texts]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=0)
    assert np.nanmax(found.values[:, 3:]) == 1 and np.nanmin(found.values[:, 3:]) == 0
    signals = token_signals(model, CausalLMTask(), loader_of(texts).batches(range(len(texts)), 4), CPU)
    np.testing.assert_allclose(exact_memorisation(signals).values, found.n_right / found.n_tokens)
    assert found.n_tokens.tolist() == [len(ids) - max(start, 1) for ids, start in texts]


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_batches_order_and_padding_change_nothing(kind: str) -> None:
    model = model_of(kind, 3)
    texts = some_texts(model, 3)
    loader, n = loader_of(texts), len(texts)
    whole = extraction_likelihood(model, CausalLMTask(), loader.batches(range(n), n), CPU, max_n=MAX_N)
    for order, size, rows in ((range(n)[::-1], 1, 2), (range(n), 5, 1000)):
        again = extraction_likelihood(
            model, CausalLMTask(max_logits=40), loader.batches(order, size), CPU, max_n=MAX_N, batch_size=rows
        )
        np.testing.assert_array_equal(again.values, whole.values[list(order)])
    left = loader.batch(range(n))
    tokens = left.inputs["tokens"]
    lengths = tokens["attention_mask"].sum(dim=1, keepdim=True)
    source = (torch.arange(tokens["input_ids"].shape[1]) + lengths) % tokens["input_ids"].shape[1]
    left.inputs["tokens"].update({key: value.gather(1, source) for key, value in tokens.items()})
    assert (
        not left.inputs["tokens"]["attention_mask"][:, 0].all() and left.inputs["tokens"]["attention_mask"][:, -1].all()
    )
    moved = extraction_likelihood(model, CausalLMTask(), [left], CPU, max_n=MAX_N)
    np.testing.assert_array_equal(moved.values, whole.values)


def test_which_models_are_branched_off_from(monkeypatch: pytest.MonkeyPatch) -> None:
    read_again: list[int] = []
    real = branches._generated
    monkeypatch.setattr(branches, "_generated", lambda *given: read_again.append(1) or real(*given))
    for kind, expected in (("gpt2", False), ("llama", False), ("mistral", True)):
        read_again.clear()
        texts = [(list(range(1, 13)), 0)]
        extraction_likelihood(model_of(kind, 0), CausalLMTask(), [loader_of(texts).batch([0])], CPU)
        assert bool(read_again) is expected


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_text_known_by_heart_is_read_and_nothing_is_written(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind, 0)
    ids = [3, 4, *one_at_a_time(model, [3, 4], 10)]
    for name in ("_generated", "_Branches.decode"):
        monkeypatch.setattr(f"forgetmi.metrics.branches.{name}", None)
    found = extraction_likelihood(model, CausalLMTask(), [loader_of([(ids, 2)]).batch([0])], CPU, max_n=12)
    assert found.values[0, :10].tolist() == [1.0] * 10 and np.isnan(found.values[0, 10:]).all()
    assert found.n_decoded.tolist() == [0]


def test_single_precision_agrees_with_double() -> None:
    for kind in ("gpt2", "llama"):
        double = model_of(kind, 5)
        single = build_causal_lm({"config": double.to_config()["config"], "dtype": "float32"}, 0)
        single.load_state_dict(double.state_dict())
        texts = some_texts(double, 5)
        batch = loader_of(texts).batch(range(len(texts)))
        a, b = (extraction_likelihood(m, CausalLMTask(), [batch], CPU, max_n=MAX_N) for m in (double, single))
        np.testing.assert_array_equal(a.values, b.values)


def test_overlap_by_hand() -> None:
    true = np.array([1, 2, 1, 2, 3])
    written = np.array(
        [
            [1, 2, 3, 1, 2],  # 12 23 31 12 against 12 21 12 23: all but 31
            [0, 2, 1, 2, 2],  # 21 12 22 against 21 12 23: two
            [0, 0, 2, 1, 2],  # 21 12 against 12 23: one, for 21 stands only before
            [0, 0, 0, 9, 3],  # 93 against 23
            [0, 0, 0, 0, 3],
        ]
    )
    found = _overlap(written, true, 7)
    assert found[0] == pytest.approx((5 / 5 + 4 / 4 + 3 / 3 + 1 / 2 + 1) / 5)
    assert found[1] == pytest.approx((3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    assert found[2] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)  # 123 | 212 | -
    assert found[3:5].tolist() == [0, 0] and np.isnan(found[5:]).all()


def test_continuations_are_shared_by_hand() -> None:
    true = np.array([1, 2, 3, 4])
    wrong = np.array([False, True, False, False])
    written = np.array([[0, 0, 0, 0], [0, 7, 8, 9], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = _shared(written, wrong, true)
    assert found[0].tolist() == [1, 7, 8, 9]
    assert found[1, 1:].tolist() == [7, 8, 9]
    assert found[2, 2:].tolist() == [3, 4] and found[3, 3:].tolist() == [4]


def test_a_text_by_heart_is_1_and_a_stranger_0() -> None:
    true = np.arange(6)
    assert _overlap(np.tile(true, (6, 1)), true, 6).tolist() == [1.0] * 6
    assert _overlap(np.full((6, 6), 99), true, 6).tolist() == [0.0] * 6


def test_the_metric_and_what_is_refused() -> None:
    model = tiny_causal_lm()
    batch = loader_of([([3, 4, 5, 6], 0), ([3, 4], 0)]).batch([0, 1])
    found = extraction_likelihood(model, CausalLMTask(), [batch], CPU, max_n=3)
    three = found.metric(3)
    assert three.direction == "remembers_above" and np.isnan(three.values).tolist() == [False, True]
    figure = three.figure(np.arange(2), np.random.default_rng(0))
    assert figure.counts["n_without_value"] == 1
    for n in (0, 4):
        with pytest.raises(AuditError, match="was not computed"):
            found.metric(n)
    with pytest.raises(ConfigError, match=r"(?s)max_n.*batch_size"):
        extraction_likelihood(model, CausalLMTask(), [batch], CPU, max_n=0, batch_size=0)
    with pytest.raises(DataError, match="no record"):
        extraction_likelihood(model, CausalLMTask(), [], CPU)
    batch.inputs["tokens"]["labels"][0, 2] = IGNORED
    with pytest.raises(DataError, match="several pieces"):
        extraction_likelihood(model, CausalLMTask(), [batch], CPU)
