"""SURE: which units move, that the others do not, and that the gradient is the method's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "weight_decay": 0.5, "momentum": 0.9, "mode": "eval"}
CASES = [classifier_case, language_case, adapter_case]
FORMS = [("module", "once"), ("row", "step")]


def sure(case, seed=1, **options):
    return build_method("sure", {"options": {"fit": FIT}, **options}).unlearn(case.job(seed=seed))


def norms(case, level):
    """By hand: of each unit (a layer's parameters, or a row) the 2-norm of the gradient of the mean loss over D_f."""
    model = case.model.eval()
    total, count = 0.0, 0
    for index in case.partition.forget:
        values, mask = case.task.token_nll(model, case.loader.batch([index]))
        total, count = total + values.sum(), count + mask.sum()
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    found = torch.autograd.grad(total / count, parameters, materialize_grads=True, allow_unused=True)
    if level == "row":
        rows = {n: g.reshape(len(g) if g.ndim else 1, -1) for n, g in zip(names, found, strict=True)}
        return {(n, k): row.norm().item() for n, g in rows.items() for k, row in enumerate(g)}
    units = {}
    for name, gradient in zip(names, found, strict=True):
        units.setdefault(name.rpartition(".")[0] or name, []).append(gradient.flatten())
    return {unit: torch.cat(parts).norm().item() for unit, parts in units.items()}


def moved_rows(now, before):
    changed = (now != before).reshape(len(now) if now.ndim else 1, -1)
    return changed.any(dim=1).nonzero()[:, 0].tolist()


def moved_units(before, after, level):
    rows = {(n, row) for n, p in after.named_parameters() for row in moved_rows(p, before.get_parameter(n))}
    return rows if level == "row" else {name.rpartition(".")[0] or name for name, _ in rows}


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize(("level", "when"), FORMS)
def test_percentile_zero_is_the_method(make, level, when):
    """The forget gradient counts once, too, though it is taken twice."""
    alone = build_method("npo", {"fit": FIT}).unlearn(make().job(seed=1))
    assert same_state(state_of(alone), state_of(sure(make(), percentile=0, level=level, when=when)))


@pytest.mark.parametrize("make", [classifier_case, language_case])
@pytest.mark.parametrize("level", ["module", "row"])
def test_a_fixed_mask_moves_exactly_the_units_above_the_percentile(make, level):
    """AdamW with momentum and weight decay; every other unit is bit-identical."""
    case = make()
    found = norms(case, level)
    gamma = np.percentile(list(found.values()), 70)
    model = sure(case, percentile=70, level=level)
    moved = moved_units(case.model, model, level)
    far = {unit: norm for unit, norm in found.items() if abs(norm - gamma) > 1e-4 * gamma}  # not decided by rounding
    assert moved & far.keys() == {unit for unit, norm in far.items() if norm > gamma}


@pytest.mark.parametrize("level", ["module", "row"])
def test_percentile_hundred_moves_one_unit(level):
    case = language_case()
    top = max(found := norms(case, level), key=found.__getitem__)
    model = sure(case, percentile=100, level=level)
    assert moved_units(case.model, model, level) == {top}


def row_changes(job, run):
    """Of each step the rows that moved in it."""
    seen, last = [], {n: p.detach().clone() for n, p in job.copy_of_original().named_parameters()}

    def look(named):
        seen.append({(name, row) for name, p in named for row in moved_rows(p, last[name])})
        last.update({name: p.detach().clone() for name, p in named})

    run(replace(job, trainer=job.trainer.constrained(after_step=look)))
    return seen


@pytest.mark.parametrize("make", [classifier_case, language_case])
def test_a_mask_of_each_step_holds_all_other_rows_in_that_step(make):
    """Momentum would move the rows of earlier masks (published code lets it)."""
    case = make()
    method = build_method(
        "sure", {"options": {"fit": FIT}, "inner": "gradient_ascent", "percentile": 100, "level": "row", "when": "step"}
    )
    steps = row_changes(case.job(seed=1), method.unlearn)
    assert len(steps) == 4 and all(len(rows) == 1 for rows in steps)
    many = row_changes(case.job(seed=1), replace(method, percentile=90).unlearn)
    total = sum(len(p) if p.ndim else 1 for p in case.model.parameters())
    assert all(0 < len(rows) <= 0.1 * total + 1 for rows in many)
    assert many[0] != many[-1], "the same mask at each step"


def test_steps_without_forget_records_keep_the_last_mask_and_at_first_nothing_moves():
    case = classifier_case()
    options = {"level": "row", "when": "step", "percentile": 50}
    assert same_state(state_of(case.model), state_of(sure(case, inner="fine_tune", **options)))
    scrubbed = row_changes(
        case.job(seed=1), build_method("sure", {**options, "inner": "scrub", "options": {"fit": FIT}}).unlearn
    )
    assert any(scrubbed)


def test_the_shares_of_a_fixed_mask_are_logged():
    case = language_case()
    job = case.job()
    build_method("sure", {"options": {"fit": {**FIT, "epochs": 0}}}).unlearn(job)
    (event,) = [event for event in job.trainer.log.events if event["event"] == "mask"]
    assert sum(total for _, total in event["shares"].values()) == sum(p.numel() for p in case.model.parameters())


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)percentile.*batch_size.*unknown option 'x'"):
        build_method("sure", {"percentile": 101, "batch_size": 0, "options": {"x": 1}})
    with pytest.raises(ConfigError, match="nothing to mask"):
        build_method("sure", {"inner": "retrain"})
