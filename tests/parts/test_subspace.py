"""Selection, directions and projections, by hand."""

from __future__ import annotations

import pytest
import torch

from forgetmi.parts.edits.subspace import common_space, differential, most_affected, without_space


def test_by_hand():
    forget, retain = torch.tensor([3.0, 1.0, 5.0, 2.0]), torch.tensor([1.0, 1.0, 4.5, 0.0])
    assert sorted(most_affected(forget, retain, 0.5).tolist()) == [0, 3]
    assert len(most_affected(forget, retain, 0.01)) == 1
    assert differential(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 5.0])).tolist() == pytest.approx([0.6, -0.8])
    assert differential(torch.ones(2), torch.ones(2)) is None
    space = common_space([torch.tensor([1.0, 0.0, 0.0])], 0.95)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert without_space(rows, space).tolist() == [[0.0, 0.0], [3.0, 4.0], [5.0, 6.0]]
    assert without_space(torch.tensor([1.0, 2.0, 3.0]), space).tolist() == [0.0, 2.0, 3.0]


def test_the_space_is_as_small_as_the_variance_allows():
    # Squared singular values 9, 1 along two axes.
    directions = [torch.tensor([1.0, 0.0, 0.0])] * 9 + [torch.tensor([0.0, 1.0, 0.0])]
    assert [common_space(directions, v).shape[1] for v in (0.5, 0.9, 0.91, 1.0)] == [1, 1, 2, 2]


def test_projecting_twice_is_projecting_once_and_nothing_grows():
    draw = torch.Generator().manual_seed(0)
    space = common_space(list(torch.randn(3, 8, generator=draw)), 1.0)
    rows = torch.randn(8, 5, generator=draw)
    once = without_space(rows, space)
    assert torch.allclose(without_space(once, space), once, atol=1e-6)
    assert torch.allclose(space.T.float() @ once, torch.zeros(3, 5), atol=1e-6) and once.norm() < rows.norm()
