"""Texts that share a row: what an encoder gives for each is what it gives for the padded batch."""

from __future__ import annotations

import pytest
import torch

from forgetmi.models.forget_mi_reference import build_forget_mi_network
from forgetmi.models.packing import pack_texts

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}


def right_padded(lengths, width=None):
    return (torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("capacity", [1, 12, 20, 100])
@pytest.mark.parametrize("lengths", [[9, 2, 5, 1, 7], [4, 4], [3, 8, 8, 2, 2, 2]])
def test_every_token_stands_once_in_its_own_text(lengths, capacity):
    mask = right_padded(lengths, 12)
    packing = pack_texts(mask, capacity)
    n_rows, length = packing.source.shape
    assert n_rows * length < mask.numel() and length <= max(capacity, *lengths)
    flat = packing.source.flatten()
    for text, size in enumerate(lengths):
        start = int(packing.first[text])
        row, column = divmod(start, length)
        assert flat[start : start + size].tolist() == [text * 12 + k for k in range(size)]
        assert packing.positions.flatten()[start : start + size].tolist() == list(range(size))
        seen = torch.zeros(length, dtype=torch.bool)
        seen[column : column + size] = True
        for k in range(size):
            assert torch.equal(packing.attention[row, 0, column + k], seen)
    assert packing.attention.any(dim=-1).all(), "attention over nothing would be NaN"


@pytest.mark.parametrize(
    "mask", [torch.ones(3, 5), right_padded([3, 0, 5]), right_padded([3, 5]).flip(1), torch.ones(0, 4)]
)
def test_what_is_not_packed(mask):
    """Nothing to save; a text without tokens; padding on the left; no text at all."""
    assert pack_texts(mask.long()) is None


def text_branch(**changes):
    branch = build_forget_mi_network({**SMALL, **changes}, seed=0).eval().text_model
    draw = torch.Generator().manual_seed(1)
    for parameter in branch.parameters():  # biases and norms too, and large enough for attention to matter
        parameter.data.normal_(0.0, 0.3, generator=draw)
    mask = right_padded([11, 3, 7, 1, 5])
    ids, types = (torch.randint(0, n, mask.shape, generator=draw) for n in (50, 2))
    return branch, ids, mask, types


@pytest.mark.parametrize("with_types", [True, False])
def test_outputs_and_gradients_are_those_of_the_padded_batch(with_types):
    branch, ids, mask, types = text_branch()
    found = {}
    for packed in (True, False):
        branch.packed = packed
        branch.zero_grad()
        embedding, logits = branch(ids, mask, types if with_types else None)
        (embedding.square().sum() + logits.sum()).backward()
        gradients = {name: p.grad.clone() for name, p in branch.named_parameters()}
        found[packed] = {"embedding": embedding.detach(), "logits": logits.detach(), **gradients}
    for name, tensor in found[True].items():
        torch.testing.assert_close(tensor, found[False][name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_texts_output_does_not_depend_on_what_shares_its_row():
    branch, ids, mask, _ = text_branch()
    others = ids.clone()
    others[[0, 1, 3, 4]] = (others[[0, 1, 3, 4]] + 7) % 50
    with torch.no_grad():
        assert torch.equal(branch(ids, mask)[0][2], branch(others, mask)[0][2])


def test_padding_is_really_left_out():
    branch, ids, mask, _ = text_branch()
    seen = []
    branch.bert.embeddings.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[:2].numel()))
    branch(ids, mask)
    assert seen == [int(mask.sum())] and mask.numel() == 55
