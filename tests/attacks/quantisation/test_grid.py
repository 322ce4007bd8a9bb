"""Uniform grids and tables of levels: closed forms, hand-worked values, invariants, and bitsandbytes itself."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetmi.attacks.quantisation.grid import (
    FP4,
    NF4,
    dynamic_table,
    round_to_nearest,
    round_to_table,
    rounded_maxima,
)

GRANULARITIES = ("tensor", "channel", "group")
WAYS = [(g, s) for g in GRANULARITIES for s in ("symmetric", "paper")]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def widths(weight: torch.Tensor, bits: int, granularity: str, scale: str) -> torch.Tensor:
    """Delta of every weight, by the definition, one weight at a time."""
    top = 2 ** (bits - 1) - (1 if scale == "symmetric" else 0)
    found = torch.empty_like(weight)
    for i, row in enumerate(weight):
        for j in range(len(row)):
            shared = {"tensor": weight, "channel": row, "group": row[j // 4 * 4 : j // 4 * 4 + 4]}[granularity]
            found[i, j] = shared.abs().max() / top
    return found


@pytest.mark.parametrize(("granularity", "scale"), WAYS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_weight_goes_to_the_nearest_level(granularity, scale, bits) -> None:
    weight = normal(5, 10)  # the last group of a row is shorter
    coded = round_to_nearest(weight, bits, granularity=granularity, group_size=4, scale=scale)
    delta = widths(weight, bits, granularity, scale)
    assert bool(((coded.values - weight).abs() <= delta / 2 * (1 + 1e-5)).all())
    assert torch.allclose(coded.values, coded.codes * delta)
    assert int(coded.codes.abs().max()) == 2 ** (bits - 1) - (scale == "symmetric")


@pytest.mark.parametrize(("granularity", "scale"), WAYS)
def test_a_weight_on_the_grid_is_a_fixed_point(granularity, scale) -> None:
    way = {"granularity": granularity, "group_size": 4, "scale": scale}
    once = round_to_nearest(normal(6, 8), 4, **way)
    again = round_to_nearest(once.values, 4, **way)
    assert torch.equal(again.codes, once.codes)
    assert torch.allclose(again.values, once.values, rtol=3e-7, atol=0)
    exact = torch.tensor([[-8.0, -3.0, 0.0, 5.0]]) / 4  # a power of two as the largest: no rounding error at all
    assert torch.equal(round_to_nearest(exact, 4, scale="paper").values, exact)


@pytest.mark.parametrize("scale", ["symmetric", "paper"])
def test_an_update_within_the_bucket_is_lost_and_one_of_a_width_moves_one_level(scale) -> None:
    draw = np.random.default_rng(0)
    weight = normal(4, 16)
    weight[:, 0] = 4.0  # the largest, which the update leaves alone: buckets keep their width
    coded = round_to_nearest(weight, 4, granularity="tensor", scale=scale)
    delta = float(widths(weight, 4, "tensor", scale)[0, 0])
    to_edge = delta / 2 - (coded.values - weight).abs()
    free = torch.ones_like(weight)
    free[:, 0] = 0.0
    small = to_edge * free * torch.from_numpy(draw.uniform(-0.99, 0.99, weight.shape)).float()
    lost = round_to_nearest(weight + small, 4, granularity="tensor", scale=scale)
    assert not torch.equal(weight + small, weight)
    assert torch.equal(lost.values, coded.values)
    inner = free * (weight.abs() < 4.0 - 2 * delta)
    moved = round_to_nearest(weight + delta * inner, 4, granularity="tensor", scale=scale)
    far = to_edge > 1e-5 * delta  # not so near an edge that adding rounds it over
    assert torch.equal((moved.codes - coded.codes)[far], inner.to(torch.int16)[far])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
    st.integers(2, 7),
    st.sampled_from(GRANULARITIES),
)
def test_a_bit_more_never_makes_an_error_larger_on_the_papers_grid(values, bits, granularity) -> None:
    weight = torch.tensor([values], dtype=torch.float64)
    errors = [
        (round_to_nearest(weight, n, granularity=granularity, group_size=4, scale="paper").values - weight).abs()
        for n in (bits, bits + 1)
    ]
    assert bool((errors[1] <= errors[0] * (1 + 1e-12) + 1e-13).all())


def test_more_bits_may_cost_a_little_where_grids_do_not_nest() -> None:
    """Why the bound above is not claimed of the symmetric scale: 1/7 lies on its grid of 4 bits, not on that of 8."""
    weight = torch.tensor([[1.0, 1.0 / 7.0]], dtype=torch.float64)
    four, eight = ((round_to_nearest(weight, n).values - weight).abs().max() for n in (4, 8))
    assert float(four) < 1e-15 < float(eight) <= 0.5 / 127


def test_zeros_stay_and_types_are_kept() -> None:
    weight = normal(2, 8).to(torch.bfloat16)
    weight[0] = 0
    for coded in (round_to_nearest(weight, 4, granularity="channel"), round_to_table(weight, NF4)):
        assert coded.values.dtype == torch.bfloat16 and coded.codes.dtype == torch.int16
        assert bool(coded.values[0].eq(0).all()) and bool(coded.values.isfinite().all())
    wide = round_to_nearest(weight.float(), 4, granularity="channel").values
    assert torch.equal(round_to_nearest(weight, 4, granularity="channel").values, wide.to(torch.bfloat16))
    assert round_to_nearest(weight.double(), 4).values.dtype == torch.float64


def test_tables_by_hand() -> None:
    """Largest weight 2, so that entries are doubled; 0.04 lies below the middle 0.0398 + of 0 and 0.0796, and so on."""
    weight = torch.tensor([[2.0, -2.0, 0.07, 0.09, -0.5, 1.0]])
    want = 2 * torch.tensor([[1.0, -1.0, 0.0, 0.07958029955625534, -0.28444138169288635, 0.44070982933044434]])
    assert torch.equal(round_to_table(weight, NF4).values, want)
    # fp4: 12ths of 0, 1/16, 2, 3, 4, 6, 8, 12; the middle between 1/192 and 1/6 is 0.0859375
    weight = torch.tensor([[12.0, 0.02, 0.04, 1.03, 1.04, -5.1, 7.0, 9.9, 10.1]])
    want = torch.tensor([[12.0, 0.0, 0.0625, 0.0625, 2.0, -6.0, 6.0, 8.0, 12.0]])
    assert torch.allclose(round_to_table(weight, FP4).values, want, rtol=1e-6)


def test_blocks_run_over_the_ends_of_rows() -> None:
    weight = normal(5, 30)
    weight[2, 10] = 50.0  # weight 70: in the second block of 64
    values = round_to_table(weight, NF4).values.reshape(-1)
    flat = weight.reshape(-1)
    for start in (0, 64, 128):
        alone = round_to_table(flat[None, start : start + 64], NF4).values[0]
        assert torch.equal(values[start : start + 64], alone)


def test_the_8_bit_type_and_double_quantisation() -> None:
    table = dynamic_table()
    assert len(set(table)) == 256 and list(table) == sorted(table)
    assert table[0] == pytest.approx(-0.99296875) and table[-2:] == (pytest.approx(0.99296875), 1.0)
    assert min(abs(v) for v in table if v) == pytest.approx(5.5e-7)  # the middle of [0.1, 1], times 10^-6
    largest = normal(700).abs() + 1
    rounded = rounded_maxima(largest)
    for start in range(0, 700, 256):
        part = slice(start, start + 256)
        spread = (largest - largest.mean())[part].abs().max()
        assert float((rounded - largest)[part].abs().max()) <= float(spread) * 0.9 / 64 / 2 * 1.01
    assert not torch.equal(rounded, largest)
    weight = normal(30, 64)
    plain, double = (round_to_table(weight, NF4, double=d) for d in (False, True))
    assert torch.equal(plain.codes, double.codes)
    assert torch.allclose(double.values[:, 0] * 0 + 1, torch.ones(30))
    ratio = (double.values / plain.values)[plain.values != 0]
    assert bool(((ratio - 1).abs() < 0.02).all()) and float((ratio - 1).abs().max()) > 0


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double", [False, True])
def test_bitsandbytes_gives_the_same(kind, dtype, double) -> None:
    from bitsandbytes import functional

    from forgetmi.attacks.quantisation.quantisers import by_bitsandbytes

    table = {"nf4": NF4, "fp4": FP4}[kind]
    code = functional.get_4bit_type(kind, device="cpu")
    assert torch.equal(code.unique(), torch.tensor(table))
    assert torch.equal(functional.create_dynamic_map(), torch.tensor(dynamic_table()))
    for shape in ((64, 64), (7, 100), (33, 3), (200, 130)):
        weight = normal(*shape).to(dtype)
        theirs = by_bitsandbytes(weight, kind, 64, double=double)
        ours = round_to_table(weight, table, double=double).values
        if double:
            # bitsandbytes' kernel for CPUs looks maxima up, and now and then takes the level beside the nearest
            differ = (theirs != ours).float().mean()
            assert float(differ) <= 0.02 and float(((theirs - ours).abs() / weight.abs().max()).max()) < 0.01
        else:
            assert torch.equal(theirs, ours)
