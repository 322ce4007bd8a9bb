"""SSD: its importances, its limits, and what a batch size may change."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.parts.edits.importance import per_sample_gradients
from tests.tiny import classifier_case, language_case, same_state, state_of

CASES = [classifier_case, language_case]


def squares(case, indices):
    gradients, _ = per_sample_gradients(case.model, case.task, case.loader.batch(indices))
    return {name: g[:, 0].square().mean(dim=0) for name, g in gradients.items()}


@pytest.mark.parametrize("make", CASES)
def test_the_whole_train_set_is_what_it_is_compared_with(make):
    case, alpha = make(), 1.5
    part = case.partition
    i_f, i_d = squares(case, part.forget), squares(case, (*part.forget, *part.retain))
    model = build_method("ssd", {"alpha": alpha}).unlearn(case.job())
    changed = 0
    for name, parameter in model.named_parameters():
        theta = case.model.get_parameter(name)
        expected = torch.where(i_f[name] > alpha * i_d[name], theta * (i_d[name] / i_f[name]).clamp(max=1), theta)
        close = torch.isclose(parameter, expected, rtol=1e-3, atol=1e-7)
        at_the_edge = torch.isclose(i_f[name], alpha * i_d[name], rtol=1e-4)
        assert (close | at_the_edge).all(), name
        changed += int((parameter != theta).sum())
    assert changed > 0


@pytest.mark.parametrize("make", CASES)
def test_a_threshold_without_end_changes_nothing_and_lambda_nought_makes_selected_weights_nought(make):
    case = make()
    unchanged = build_method("ssd", {"alpha": 1e30}).unlearn(case.job())
    assert same_state(state_of(case.model), state_of(unchanged))
    nought = build_method("ssd", {"alpha": 2.0, "lam": 0.0}).unlearn(case.job())
    for name, parameter in nought.named_parameters():
        assert ((parameter == 0) | (parameter == case.model.get_parameter(name))).all()


def test_the_batch_size_matters_with_batch_gradients_only():
    case = classifier_case()

    def model(**options):
        return state_of(build_method("ssd", {"alpha": 1.0, **options}).unlearn(case.job()))

    small, large = model(batch_size=3), model(batch_size=64)
    assert all(torch.allclose(small[k].float(), large[k].float(), atol=1e-4) for k in small)
    published = [model(batch_size=size, gradients="batch") for size in (1, 64)]
    assert any(not torch.allclose(published[0][k].float(), published[1][k].float(), atol=1e-3) for k in small)
    assert all(torch.allclose(published[0][k].float(), small[k].float(), atol=1e-4) for k in small)


def test_the_log_says_how_many_weights_were_selected():
    case = classifier_case()
    job = case.job()
    model = build_method("ssd", {"alpha": 3.0, "lam": 0.0}).unlearn(job)
    (event,) = [event for event in job.trainer.log.events if event["event"] == "dampened"]
    total = sum(p.numel() for p in model.parameters())
    changed = sum(int((p != case.model.get_parameter(n)).sum()) for n, p in model.named_parameters())
    assert event["of"] == total and 0 < changed <= event["selected"] < total


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)alpha.*lam.*exponent.*bound.*batch_size"):
        build_method("ssd", {"alpha": -1, "lam": -1, "exponent": 0, "bound": 2, "batch_size": 0})
