"""CHIP, our reading: which outputs lose which directions, and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.chip import CHIP
from tests.tiny import classifier_case, language_case, state_of


def means(model, case, layer, indices):
    """The mean output of a layer over records, one by one: without padding."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    model.eval()
    for index in indices:
        case.task.output(model, case.loader.batch([index]))
    handle.remove()
    return torch.stack([o.reshape(-1, o.shape[-1]).mean(dim=0) for o in seen]).mean(dim=0)


@pytest.mark.parametrize("case", [classifier_case(), language_case()])
def test_only_selected_outputs_of_the_chosen_layers_change_and_the_head_does_not(case):
    job = case.job()
    method = CHIP(layers=2, share=0.5)
    chosen = set(method._chosen(job, job.copy_of_original()))
    model = method.unlearn(job)
    before = state_of(case.model)
    changed = {k.rpartition(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and changed <= chosen and len(chosen) == 2
    (event,) = [e for e in job.trainer.log.events if e["event"] == "projected"]
    assert {name for name, rank in event["ranks"].items() if rank} == changed
    for name in changed:
        weight, start = model.get_submodule(name).weight, case.model.get_submodule(name).weight
        rows = (weight != start).any(dim=1 if isinstance(model.get_submodule(name), torch.nn.Linear) else 0)
        assert rows.sum() <= len(rows) // 2
        assert weight.norm() < start.norm()


def test_the_difference_between_one_patient_and_the_rest_is_taken_out_of_a_layer():
    """One node, one layer, all outputs: afterwards the two means agree there, as far as that layer makes them."""
    case = classifier_case()
    part = case.partition
    one = tuple(i for i in part.forget if case.dataset[i].patient_id == "p00")
    job = case.job()
    job = replace(job, partition=replace(part, forget=one))
    method = CHIP(layers=1, share=1.0, variance=1.0, nodes="patient")
    (layer,) = method._chosen(job, job.copy_of_original())
    model = method.unlearn(job)

    def gap(m):
        return float((means(m, case, layer, one) - means(m, case, layer, part.retain)).norm())

    assert gap(case.model) > 1e-2 and gap(model) < 1e-4


def test_siblings_of_the_same_institution_come_first():
    case = classifier_case()
    job = case.job()
    plain = CHIP(layers=1, share=1.0).unlearn(job)
    records = [replace(r, institution="other") if r.patient_id == "p12" else r for r in case.dataset]
    moved = type(case.dataset)(
        records, name="tiny", levels=case.dataset.levels, classes=("a", "b", "c"),
        modality_kinds=case.dataset.modality_kinds,
    )  # fmt: skip
    elsewhere = replace(job, partition=replace(job.partition, dataset=moved))
    without = CHIP(layers=1, share=1.0).unlearn(elsewhere)
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), without.parameters(), strict=True))


def test_the_batch_size_changes_nothing_and_a_frozen_model_is_refused():
    case = classifier_case()
    small, large = (CHIP(batch_size=size).unlearn(case.job()) for size in (1, 32))
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(small.parameters(), large.parameters(), strict=True))
    case.model.requires_grad_(False)
    case.model.head.requires_grad_(True)
    with pytest.raises(MethodError, match="none of them may change"):
        CHIP().unlearn(case.job())


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)layers.*share.*variance.*batch_size"):
        build_method("chip", {"layers": 0, "share": 0, "variance": 2, "batch_size": 0})
