"""Which sequences are ascended on and until when; and weights beyond those that training gave."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from forgetmi.errors import MethodError
from forgetmi.parts.edits.task_vectors import extrapolated, ties
from forgetmi.parts.objectives.ascent import ascent_loss
from forgetmi.parts.selection.memorised import count_outliers, mean_below, still_memorised

G = torch.tensor([0.2, 0.7, 0.9, 0.69, 0.9])


def test_the_memorised_and_always_the_most_memorised_one():
    assert still_memorised(G, 0.7).tolist() == [False, True, True, False, True]
    assert still_memorised(G, 0.95).tolist() == [False, False, True, False, False]  # of equal ones the first
    assert still_memorised(torch.full((3,), 0.7), 0.7).all()  # before the first measurement
    assert G.tolist() == pytest.approx([0.2, 0.7, 0.9, 0.69, 0.9])


def test_with_a_threshold_of_zero_it_is_gradient_ascent():
    nll, mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(5, 4, dtype=torch.bool)
    kept = still_memorised(G, 0.0)
    assert torch.equal(ascent_loss(nll, mask & kept[:, None]), ascent_loss(nll, mask))
    some = still_memorised(G, 0.7)
    assert ascent_loss(nll, mask & some[:, None]).item() == pytest.approx(-nll[[1, 2, 4]].mean().item())


def test_stopping():
    assert not mean_below(torch.tensor([0.2, 0.4]).double(), 0.3) and mean_below(torch.tensor([0.2, 0.4]), 0.301)
    # TAU: never with a switch at 0 (SGA to the end), with one at 1 as soon as any token is missed (TA at once).
    assert not mean_below(torch.zeros(3), 0.0) and mean_below(torch.tensor([1.0, 0.99]), 1.0)
    # A mean below the threshold hides a sequence that is known by heart: the outliers do not.
    g = torch.tensor([1.0, 0.0, 0.16, 0.2, 0.3, 0.59])
    assert mean_below(g, 0.5) and count_outliers(g) == 2 and count_outliers(g[2:]) == 0
    assert count_outliers(torch.tensor([0.15, 0.60])) == 2


def state(seed, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 4, generator=draw).to(dtype), "b": torch.randn(5, generator=draw).to(dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_task_vectors_reach_both_ends_exactly_and_are_linear_between(dtype):
    start, end = state(0, dtype), state(1, dtype)
    for name in start:
        assert torch.equal(extrapolated(start, end, 0.0)[name], start[name])
        assert torch.equal(extrapolated(start, end, 1.0)[name], end[name])
        found = extrapolated(start, end, -3.0)[name]
        assert found.dtype == dtype
        expected = start[name].double() - 3.0 * (end[name].double() - start[name].double())
        assert torch.allclose(found.double(), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_integers_stay_and_other_architectures_are_refused():
    start, end = {"n": torch.tensor([3])}, {"n": torch.tensor([5])}
    assert extrapolated(start, end, -3.0)["n"].tolist() == [3]
    for other in ({"m": torch.tensor([5])}, {"n": torch.tensor([5, 6])}):
        with pytest.raises(MethodError, match="differ in name or shape"):
            extrapolated(start, other, 1.0)
    with pytest.raises(MethodError, match="2 task vectors were given 1"):
        ties([start, end], [1.0], density=1.0)


def test_ties_by_hand():
    vectors = [{"w": torch.tensor([4.0, 3.0, -0.1, 2.0])}, {"w": torch.tensor([-1.0, 5.0, 0.2, -6.0])}]
    # Half stays: (4, 3, 0, 0) and (0, 5, 0, -6). Signs + + + -: 4 of one, the mean of 3 and 5, none, -6 of the other.
    assert ties(vectors, [1.0, 1.0], density=0.5)["w"].tolist() == [4.0, 4.0, 0.0, -6.0]
    assert ties(vectors, [0.5, 1.0], density=0.5)["w"].tolist() == [2.0, 3.25, 0.0, -6.0]
    # All stay: 4 - 1 > 0 keeps 4 alone; 2 - 6 < 0 keeps -6 alone.
    assert ties(vectors, [1.0, 1.0], density=1.0)["w"].tolist() == pytest.approx([4.0, 4.0, 0.2, -6.0])
    opposite = [{"w": torch.tensor([-2.0])}, {"w": torch.tensor([2.0])}]
    assert ties(opposite, [1.0, 1.0], density=1.0)["w"].tolist() == [2.0]  # a sum of 0 counts as positive


def test_ties_of_one_vector_is_that_vector_and_the_share_is_of_all_or_of_each():
    vector = {"large": torch.tensor([9.0, -8.0]), "small": torch.tensor([0.5, 0.1])}
    assert all(torch.equal(ties([vector], [1.0], density=1.0)[name], vector[name]) for name in vector)
    together, apart = (ties([vector], [1.0], density=0.5, scope=scope) for scope in ("all", "each"))
    assert together["large"].tolist() == [9.0, -8.0] and together["small"].tolist() == [0.0, 0.0]
    assert apart["large"].tolist() == [9.0, 0.0] and apart["small"].tolist() == [0.5, 0.0]


def test_ties_tensor_by_tensor_is_that_of_peft():
    found = importlib.util.find_spec("peft")
    if found is None or found.origin is None:
        pytest.skip("peft is not installed")
    # The one module, not the package: that would take seconds to import.
    spec = importlib.util.spec_from_file_location("merge_utils", Path(found.origin).parent / "utils" / "merge_utils.py")
    peft = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peft)
    vectors, weights = [state(seed) for seed in range(3)], [1.0, 0.5, -0.25]
    ours = ties(vectors, weights, density=0.6, scope="each")
    expected = peft.ties([vector["b"] for vector in vectors], torch.tensor(weights), 0.6)  # 3 of 5 entries
    assert torch.allclose(ours["b"], expected, rtol=1e-6)
