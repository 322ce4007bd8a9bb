"""Which records a step sees, and what a piece of a step weighs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetmi.training.plans import ShuffledPlan, split_step
from forgetmi.training.seeds import derive_seed, numpy_generator
from tests.training.toys import vector_loader

LOADER = vector_loader()


def flat(plan, epoch):
    return [index for step in plan.steps(epoch) for index in step["records"]]


def test_every_record_once_an_epoch_in_an_order_that_follows_seed_and_epoch():
    indices = [9, 2, 4, 7, 5, 0, 1]
    plan = ShuffledPlan(LOADER, indices, batch_size=3, seed=1)
    assert [len(step["records"]) for step in plan.steps(0)] == [3, 3, 1]
    orders = [flat(plan, epoch) for epoch in range(4)]
    assert all(sorted(order) == sorted(indices) for order in orders)
    assert len({tuple(order) for order in orders}) == 4, "row 17: the order is the same each epoch"
    assert flat(plan, 2) == orders[2], "asked again, the epoch has changed"
    assert flat(ShuffledPlan(LOADER, indices, batch_size=5, seed=1), 2) == orders[2]
    assert flat(ShuffledPlan(LOADER, indices, batch_size=3, seed=2), 2) != orders[2]


def test_a_plan_draws_nothing_from_the_global_state():
    np.random.seed(1)  # noqa: NPY002 - the global state is what is looked at
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    flat(ShuffledPlan(LOADER, range(11), batch_size=3, seed=1), 0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_load_gives_the_records_of_the_step():
    plan = ShuffledPlan(LOADER, range(11), batch_size=4, seed=0, stream="forget")
    step = plan.steps(1)[0]
    batches = plan.load(step, 1)
    assert batches.keys() == {"forget"} and batches["forget"].indices.tolist() == list(step["forget"])


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    pieces=st.integers(1, 12),
)
def test_pieces_sum_to_one_and_hold_every_record_once(sizes, pieces):
    step = {f"stream{k}": tuple(range(100 * k, 100 * k + n)) for k, n in enumerate(sizes)}
    found = split_step(step, pieces)
    assert len(found) == pieces
    assert sum(weight for _, weight in found) == pytest.approx(1.0)
    assert all(piece.keys() == step.keys() and all(piece.values()) for piece, _ in found), "a piece has no record"
    if len(set(sizes)) == 1:
        for stream in step:
            kept = [i for piece, weight in found if weight > 0 for i in piece[stream]]
            assert kept == list(step[stream])
        assert all(weight == 0 or weight == pytest.approx(len(piece["stream0"]) / sizes[0]) for piece, weight in found)


def test_a_step_in_pieces_by_hand():
    step = {"forget": (5, 3, 8), "retain": (1, 4, 6)}
    assert split_step(step, 1) == [(step, 1.0)]
    assert split_step(step, 2) == [
        ({"forget": (5, 3), "retain": (1, 4)}, pytest.approx(2 / 3)),
        ({"forget": (8,), "retain": (6,)}, pytest.approx(1 / 3)),
    ]
    assert split_step(step, 4)[3] == ({"forget": (5,), "retain": (1,)}, 0.0)  # lent, and weighs nothing


def test_pieces_of_a_process_are_those_of_one_process_dealt_out():
    """World size 1 with 4 pieces and world size 2 with 2 pieces each cut the step alike."""
    step = {"records": tuple(range(7))}
    dealt = [split_step(step, 4)[rank::2] for rank in range(2)]
    assert [dealt[0][0], dealt[1][0], dealt[0][1], dealt[1][1]] == split_step(step, 4)


def test_seeds_by_name():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    names = [(1, "a"), (1, "b"), (2, "a"), (1, "a", 0), (1,), (12,), (1, 2)]
    assert len({derive_seed(*name) for name in names}) == len(names)
    assert all(0 <= derive_seed(*name) < 2**62 for name in names)
    assert numpy_generator(1, "x").integers(1000) == numpy_generator(1, "x").integers(1000)
