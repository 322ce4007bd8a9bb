"""The recovery ratio and the attack: known answers, and models of which it is known what must come back."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from forgetmi.attacks.quantisation.attack import quantisation_attack
from forgetmi.attacks.quantisation.grid import round_to_nearest
from forgetmi.attacks.quantisation.quantisers import NF4, Int4, Int8
from forgetmi.attacks.quantisation.recovery import Measured, excess, recovery, returned
from forgetmi.errors import AuditError
from forgetmi.metrics.per_example import PerExample
from forgetmi.models.lora import LoraOptions
from tests.tiny import tiny_causal_lm

N = 24
PATIENTS = np.repeat(np.arange(N // 2), 2)


def metric(values: np.ndarray, direction: str = "remembers_above") -> PerExample:
    return PerExample("known", values, direction, "{value:.0%} known", None)


def fresh() -> np.random.Generator:
    return np.random.default_rng(0)


def draw(seed: int, middle: float) -> np.ndarray:
    return middle + np.random.default_rng(seed).normal(0.0, 0.05, N)


LOW, HIGH = draw(1, 0.1), draw(2, 0.8)


def test_nothing_comes_back_and_all_of_it() -> None:
    original = Measured(metric(draw(3, 0.9)), metric(HIGH))
    none = recovery(original, Measured(metric(LOW), metric(LOW)), PATIENTS, fresh())
    assert none.value == 0.0
    everything = recovery(original, Measured(metric(LOW), metric(HIGH)), PATIENTS, fresh())
    assert everything.value == 1.0
    half = recovery(original, Measured(metric(LOW), metric((LOW + HIGH) / 2)), PATIENTS, fresh())
    assert half.value == pytest.approx(0.5) and half.interval.reason  # does not vary: no interval, and it is said
    some = recovery(original, Measured(metric(LOW), metric(draw(5, 0.3))), PATIENTS, fresh())
    want = (draw(5, 0.3).mean() - LOW.mean()) / (HIGH.mean() - LOW.mean())
    assert some.value == pytest.approx(want)
    assert some.interval.low < want < some.interval.high and some.n_patients == N // 2


def test_the_sign_of_a_metric_cancels() -> None:
    after = draw(5, 0.3)
    up = recovery(Measured(metric(HIGH), metric(HIGH)), Measured(metric(LOW), metric(after)), PATIENTS, fresh())
    turned = [metric(-values, "remembers_below") for values in (HIGH, LOW, after)]
    down = recovery(Measured(turned[0], turned[0]), Measured(turned[1], turned[2]), PATIENTS, fresh())
    assert down.value == pytest.approx(up.value) and down.interval.low == pytest.approx(up.interval.low)


def test_the_interval_is_that_of_a_ratio_over_resampled_patients() -> None:
    after = draw(5, 0.4)
    found = recovery(
        Measured(metric(HIGH), metric(HIGH)), Measured(metric(LOW), metric(after)), PATIENTS, fresh(), n_resamples=4000
    )
    rng, ratios = np.random.default_rng(9), []
    for _ in range(4000):
        chosen = rng.integers(N // 2, size=N // 2)
        rows = np.concatenate([np.flatnonzero(patient == PATIENTS) for patient in chosen])
        ratios.append((after - LOW)[rows].mean() / (HIGH - LOW)[rows].mean())
    # the percentiles of the package's intervals are expanded, for there are few patients
    tail = stats.norm.cdf(-np.sqrt(12 / 11) * stats.t.ppf(0.975, 11))
    low, high = np.quantile(ratios, (tail, 1 - tail))
    assert found.interval.low == pytest.approx(low, abs=0.004) and found.interval.high == pytest.approx(high, abs=0.004)


@pytest.mark.parametrize("ceiling", [LOW + 1e-9 * HIGH - 1e-9, LOW, draw(7, 0.1), draw(8, 0.0)])
def test_no_ratio_where_nothing_could_come_back(ceiling) -> None:
    """The rounded original knows no more than the unlearned model, or not surely more, or less."""
    found = recovery(Measured(metric(HIGH), metric(ceiling)), Measured(metric(LOW), metric(HIGH)), PATIENTS, fresh())
    assert found.value is None and "nothing that could come back" in found.reason


def test_records_without_a_value_are_left_out_of_all() -> None:
    holed = LOW.copy()
    holed[:4] = np.nan
    found = recovery(Measured(metric(HIGH), metric(HIGH)), Measured(metric(holed), metric(HIGH)), PATIENTS, fresh())
    assert found.value == 1.0 and found.counts["n_without_value"] == 4 and found.n_samples == N - 4
    with pytest.raises(AuditError, match="one metric"):
        recovery(Measured(metric(HIGH), metric(HIGH[1:])), Measured(metric(LOW), metric(LOW)), PATIENTS, fresh())


def test_distances_to_retrained_models() -> None:
    retrained = [Measured(metric(draw(10 + k, 0.1)), metric(draw(20 + k, 0.05))) for k in range(3)]
    unlearned = Measured(metric(LOW), metric(HIGH))
    plain = excess(unlearned.full, [r.full for r in retrained], PATIENTS, fresh(), name="excess")
    assert plain.value == pytest.approx(LOW.mean() - np.mean([r.full.values.mean() for r in retrained]))
    rounded = excess(unlearned.quantised, [r.quantised for r in retrained], PATIENTS, fresh(), name="excess_q")
    back = returned(unlearned, retrained, PATIENTS, fresh())
    assert back.value == pytest.approx(rounded.value - plain.value)
    assert back.interval.low > 0.5


def attack(original: nn.Module, unlearned: nn.Module, retrained: Sequence[nn.Module], quantisers, measure):
    return quantisation_attack(
        original, unlearned, retrained, quantisers=quantisers, measure=measure, patients=PATIENTS, seed=0,
        n_resamples=200,
    )  # fmt: skip


def linear(weight: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return nn.Sequential(layer)


def projections(model: nn.Module) -> list[PerExample]:
    """One number a record: what the model answers to it."""
    inputs = torch.randn(N, 16, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        known = model(inputs).square().mean(dim=1).double().numpy()
    return [PerExample("energy", known, "remembers_above", "{value:.2f}", None)]


def models() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and an update towards smaller outputs that stays in every 4-bit bucket."""
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    weight[:, 0] = 3.0
    coded = round_to_nearest(weight, 4, granularity="channel")
    to_edge = 3.0 / 7 / 2 - (coded.values - weight).abs()
    update = -weight.sign() * 0.95 * to_edge
    update[:, 0] = 0.0
    return weight, update


def test_a_small_update_is_undone_and_a_large_one_is_not() -> None:
    weight, update = models()
    original, small, large = linear(weight), linear(weight + update), linear(weight * 0.3)
    keep = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    quantisers = [Int8(), Int4("channel")]
    found = attack(original, small, [linear(weight * 0.1)], quantisers, projections)
    eight, four = found.rows
    assert four.figures["recovery"].value == pytest.approx(1.0)
    assert four.sentence.endswith("nothing can be concluded.") or "Rounding brings knowledge back" in four.sentence
    assert abs(eight.figures["recovery"].value) < 0.1
    mechanism = found.mechanism["int4, channel"]
    assert mechanism.same_level == mechanism.same_value == 1.0
    assert mechanism.unmoved == pytest.approx(1 / 16) and mechanism.n_weights == 128 and mechanism.share_of_model == 1
    assert found.mechanism["int8, channel"].same_level < 0.5
    assert mechanism.kept == 0.0 and found.mechanism["int8, channel"].kept == pytest.approx(1.0, abs=0.1)
    assert four.figures["returned"].value > 0 and four.figures["excess_quantised"].value > 0
    assert all(torch.equal(tensor, keep[name]) for name, tensor in small.state_dict().items())

    found = attack(original, large, [], [Int4("channel")], projections)
    row = found.rows[0]
    assert abs(row.figures["recovery"].value) < 0.1 and "excess" not in row.figures
    # the same levels (all shrank alike) of other widths: no value is the same, and levels alone would mislead
    assert found.mechanism["int4, channel"].same_level == 1.0
    assert found.mechanism["int4, channel"].same_value < 0.2


def test_weights_that_lie_anywhere_keep_an_update_on_average() -> None:
    """An update of a fiftieth of a bucket leaves nearly every level as it was, and is there all the same; of a weight
    that lies in the middle of its bucket nothing is left.
    """
    weight = torch.rand(64, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weight[:, 0] = 1.0
    update = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 350
    update[:, 0] = 0.0
    quantiser = Int4("channel")

    def constant(model: nn.Module) -> list[PerExample]:
        return [metric(LOW)]

    for start, same, kept in ((weight, 0.98, 1.0), (quantiser.coded(weight).values, 1.0, 0.0)):
        found = attack(linear(start), linear(start + update), [], [quantiser], constant).mechanism[quantiser.label]
        assert found.same_level == pytest.approx(same, abs=0.01) and found.kept == pytest.approx(kept, abs=0.15)


def test_the_result_is_plain_data_without_records() -> None:
    weight, update = models()
    found = attack(linear(weight), linear(weight + update), [linear(weight * 0.1)], [NF4(), Int4()], projections)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["quantiser"] for row in document["rows"]] == ["nf4", "int4, group of 128"]
    assert "values" not in json.dumps(document)
    assert document["rows"][0]["figures"]["recovery"]["n_patients"] == N // 2
    assert set(document["mechanism"]) == {"nf4", "int4, group of 128"}
    assert all("energy" in sentence for sentence in found.sentences)


def test_an_adapter_counts_as_the_update_that_it_is() -> None:
    original = tiny_causal_lm()
    unlearned = original.adapted(LoraOptions(r=2), seed=1)  # B = 0: says what the original says

    def constant(model: nn.Module) -> list[PerExample]:
        return [metric(np.linspace(0, 1, N))]

    found = attack(original, unlearned, [], [Int4()], constant)
    mechanism = found.mechanism["int4, group of 128"]
    assert mechanism.same_level == mechanism.same_value == mechanism.unmoved == 1.0 and mechanism.kept is None
    with torch.no_grad():
        for name, parameter in unlearned.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert attack(original, unlearned, [], [Int4()], constant).mechanism["int4, group of 128"].unmoved < 0.1


def test_refusals() -> None:
    weight, update = models()
    pair = linear(weight), linear(weight + update)
    with pytest.raises(AuditError, match="at least one"):
        attack(*pair, [], [], projections)
    with pytest.raises(AuditError, match="each once"):
        attack(*pair, [], [Int4(), Int4()], projections)
    with pytest.raises(AuditError, match="one architecture"):
        attack(pair[0], nn.Sequential(nn.Linear(16, 9)), [], [Int4()], projections)


def test_models_are_measured_in_their_own_mode() -> None:
    weight, update = models()
    unlearned = linear(weight + update).eval()
    modes = []

    def measure(model: nn.Module) -> list[PerExample]:
        modes.append(model.training)
        return projections(model)

    attack(copy.deepcopy(unlearned), unlearned, [], [Int4()], measure)
    assert not any(modes) and len(modes) == 4
