"""Quantities of tokens taken in chunks: the plain form's values and gradients, without its memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from forgetmi.batch import Batch
from forgetmi.models.output import ModelOutput, SequenceOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.tasks.divergence import categorical_kl
from forgetmi.tasks.tokens import token_nll, token_values

B, T, D, V = 3, 11, 6, 50


@pytest.fixture
def given():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, V, (B, T), generator=draw)
    labels[:, :4] = -100
    labels[1, 7:] = -100
    hidden = torch.randn(B, T, D, generator=draw, dtype=torch.float64)
    head = nn.Linear(D, V).double()
    with torch.no_grad():
        head.weight.copy_(torch.randn(V, D, generator=draw, dtype=torch.float64))
    return hidden, head, labels


def weights_of_tokens(labels):
    return torch.linspace(-1, 2, labels[:, 1:].numel(), dtype=torch.float64).view(B, T - 1)


@pytest.mark.parametrize("rows", [1, 4, 5, 100])
def test_values_and_gradients_are_those_of_the_plain_form(given, rows):
    hidden, head, labels = given

    def gradients(values):
        loss = (values * weights_of_tokens(labels)).sum()
        return torch.autograd.grad(loss, [states, *head.parameters()])

    states = hidden.clone().requires_grad_()
    plain = F.cross_entropy(head(states)[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
    expected = gradients(plain)
    values, mask = token_values(token_nll, [SequenceOutput(states, head)], labels, max_logits=rows * V)
    assert torch.equal(mask, labels[:, 1:] != -100)
    torch.testing.assert_close(values, plain, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients(values), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_second_derivatives_pass_through_the_chunks(given):
    hidden, head, labels = given
    values = []
    for size in (V, 1000 * V):
        states = hidden.clone().requires_grad_()
        loss = token_values(token_nll, [SequenceOutput(states, head)], labels, max_logits=size)[0].square().sum()
        (gradient,) = torch.autograd.grad(loss, states, create_graph=True)
        values.append(torch.autograd.grad(gradient.square().sum(), states)[0])
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made in the block has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_the_logits_of_a_large_vocabulary_are_never_held():
    """No tensor, forward or backward, is larger than allowed, and what is kept for the gradient is no logits."""
    vocabulary, length, width = 5000, 200, 4
    head, hidden = nn.Linear(width, vocabulary, bias=False), torch.randn(2, length, width, requires_grad=True)
    labels = torch.randint(0, vocabulary, (2, length))
    allowed = 20 * vocabulary
    kept: list[int] = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t)
    with Largest() as largest:
        with keep:
            values, mask = token_values(token_nll, [SequenceOutput(hidden, head)], labels, max_logits=allowed)
        assert sum(kept) < 3 * hidden.numel() + 20 * labels.numel() < allowed
        values.sum().backward()
    assert bool(mask.all())
    assert largest.elements == allowed  # whole chunks: 398 tokens in all
    with Largest() as plain:
        token_values(token_nll, [SequenceOutput(hidden, head)], labels, max_logits=10**9)
    assert plain.elements == 398 * vocabulary


def test_two_outputs_are_read_side_by_side(given):
    """A divergence from a reference: chunks of both, no gradient through the second."""
    hidden, head, labels = given
    other = torch.randn(B, T, V, dtype=torch.float64)
    tokens = {"input_ids": labels.clamp(min=0), "attention_mask": torch.ones_like(labels), "labels": labels}
    batch = Batch({"tokens": tokens}, {"tokens": torch.ones(B, dtype=torch.bool)}, None, torch.arange(B))
    mask = labels[:, 1:] != -100
    expected = categorical_kl(head(hidden)[:, :-1], other[:, :-1]).masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)
    for size in (V, 10**6):
        task = CausalLMTask(max_logits=size)
        found = task.divergence(SequenceOutput(hidden, head), ModelOutput(other), batch)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        wrong = task.errors_of(SequenceOutput(hidden, head), batch)
        torch.testing.assert_close(wrong, task.errors_of(ModelOutput(head(hidden)), batch))


def test_a_batch_without_an_answer_gives_zeros(given):
    hidden, head, labels = given
    states = hidden.clone().requires_grad_()
    values, mask = token_values(token_nll, [SequenceOutput(states, head)], torch.full_like(labels, -100))
    assert not mask.any() and not values.any()
    values.sum().backward()
    assert not states.grad.any()


def test_logits_are_made_only_when_asked_for(given):
    hidden, head, _ = given
    read = []

    def reader(rows):
        read.append(rows.shape)
        return head(rows)

    output = SequenceOutput(hidden, reader)
    assert output.is_sequence and not read
    assert output.logits.shape == (B, T, V) and output.logits is output.logits
    assert read == [hidden.shape]


def test_inside_torch_func_it_is_the_same(given):
    """Gradients of single records: there no shape may depend on which tokens count."""
    hidden, head, labels = given

    def nll(states, labels):
        return token_values(token_nll, [SequenceOutput(states[None], head)], labels[None])[0].sum()

    found = torch.vmap(torch.func.grad(nll))(hidden, labels)
    for row in range(B):
        states = hidden[row].clone().requires_grad_()
        (expected,) = torch.autograd.grad(nll(states, labels[row]), states)
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_several_things_of_each_token_at_once(given, rows):
    hidden, head, labels = given

    def both(logits, targets):
        return torch.stack([token_nll(logits, targets), logits.argmax(dim=-1).double()], dim=-1)

    with torch.no_grad():
        values, mask = token_values(both, [SequenceOutput(hidden, head)], labels, max_logits=rows * V)
        nll, _ = token_values(token_nll, [SequenceOutput(hidden, head)], labels)
        dense = torch.vmap(lambda h, y: token_values(both, [SequenceOutput(h[None], head)], y[None])[0][0])
        assert values.shape == (B, T - 1, 2)
        torch.testing.assert_close(values[..., 0], nll)
        torch.testing.assert_close(values[..., 1], head(hidden)[:, :-1].argmax(dim=-1) * mask.double())
        torch.testing.assert_close(dense(hidden, labels), values)
