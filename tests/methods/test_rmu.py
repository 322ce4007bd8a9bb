"""RMU: what it steers, what it holds, and that each sequence of a batch counts by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2LMHeadModel

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import build_method
from forgetmi.parts.edits.blocks import activations, blocks
from forgetmi.parts.objectives.rmu import activation_loss
from tests.methods.lm import captured
from tests.tiny import adapter_case, classifier_case, language_case, state_of, tiny_causal_lm

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
published = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
FIT = {"epochs": 1, "batch_size": 100, "lr": 0.0, "mode": "eval"}


def hidden(model, batch, layer):
    tokens = batch.inputs["tokens"]
    with torch.no_grad():
        said = model(tokens["input_ids"], attention_mask=tokens["attention_mask"], output_hidden_states=True)
    return said.hidden_states[layer + 1]


def first_loss(case, **options):
    job = case.job(seed=1)
    build_method("rmu", {"fit": FIT, **options}).unlearn(job)
    (epoch,) = [event for event in job.trainer.log.events if event["event"] == "epoch"]
    return epoch


def direction(case, width, c=6.5):
    method = build_method("rmu", {"layer": 0, "c": c})
    vector = method._target(case.job(seed=1), case.model)
    assert vector.shape == (width,) and vector.norm().item() == pytest.approx(c, rel=1e-6) and (vector >= 0).all()
    return vector


def test_the_stack_of_blocks_and_what_one_says():
    case = language_case()
    assert [name for name, _ in blocks(case.model)] == ["transformer.h.0", "transformer.h.1"]
    batch, ran = case.loader.batch(case.partition.forget), []
    handle = case.model.transformer.h[1].register_forward_hook(lambda *_: ran.append(1))
    said = activations(case.model, case.model.transformer.h[0], case.task, batch)
    handle.remove()
    assert torch.equal(said, hidden(case.model, batch, 0)) and not ran, "what stands above was run"
    with pytest.raises(MethodError, match="no stack of blocks"):
        blocks(nn.Linear(2, 2))
    with pytest.raises(MethodError, match="does not go through"):
        activations(case.model, nn.Linear(2, 2), case.task, batch)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_loss_is_a_mean_over_sequences_whatever_the_batch(size):
    """A published version divides a batch's sums by each others' lengths; lengths differ here."""
    case = language_case()
    u, rows = direction(case, 16), []
    for index in case.partition.forget:
        batch = case.loader.batch([index])
        there = case.task.answer_mask(batch)[0]
        rows.append((hidden(case.model, batch, 0)[0, there] - u).square().mean().item())
    assert len({case.task.answer_mask(case.loader.batch([i])).sum().item() for i in case.partition.forget}) > 1
    found = first_loss(case, layer=0, fit={**FIT, "batch_size": size})
    assert found["forget"] == pytest.approx(sum(rows) / len(rows), rel=1e-5)
    assert found["retain"] == 0.0


def test_forget_records_are_steered_retain_records_held_and_layers_above_stay():
    case = language_case()
    fit = {**FIT, "epochs": 60, "lr": 1e-2, "batch_size": 6, "weight_decay": 0.5}
    model = build_method("rmu", {"layer": 0, "c": 2.0, "alpha": 5.0, "fit": fit}).unlearn(case.job(seed=1))
    u = direction(case, 16, c=2.0)

    def distances(model, part):
        batch = case.loader.batch(case.partition.indices(part))
        there = case.task.answer_mask(batch)
        moved, kept = hidden(model, batch, 0)[there], hidden(case.model, batch, 0)[there]
        return (moved - u).square().mean().item(), (moved - kept).square().mean().item()

    before, after, retained = distances(case.model, "forget"), distances(model, "forget"), distances(model, "retain")
    assert after[0] < 0.7 * before[0] and after[1] > 1.3 * retained[1]
    for name, parameter in model.named_parameters():
        above = name.startswith(("transformer.h.1", "transformer.ln_f"))
        assert torch.equal(parameter, case.model.get_parameter(name)) == above, name


def test_named_weights_alone_are_trained():
    case = language_case()
    options = {"layer": 1, "weights": ["*.[01].mlp.c_proj.weight"], "fit": {**FIT, "lr": 1e-2, "weight_decay": 0.5}}
    model = build_method("rmu", options).unlearn(case.job())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, case.model.get_parameter(n))}
    assert moved == {f"transformer.h.{k}.mlp.c_proj.weight" for k in (0, 1)}
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(MethodError, match="no weight that may move"):
        build_method("rmu", {"weights": ["*.nothing"]}).unlearn(case.job())


def test_a_classifiers_joint_embedding_and_an_adapter():
    case = classifier_case()
    model = build_method("rmu", {"fit": {**FIT, "lr": 1e-2}}).unlearn(case.job())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, case.model.get_parameter(n))}
    assert "projections.film.weight" in moved and "head.weight" not in moved
    adapted = adapter_case()
    model = build_method("rmu", {"layer": 1, "fit": {**FIT, "lr": 1e-2}}).unlearn(adapted.job())
    plain = state_of(model.without_adapter())
    assert all(torch.equal(tensor, plain[name]) for name, tensor in state_of(adapted.model).items())


def test_what_cannot_be_done_is_said():
    case = language_case()
    with pytest.raises(MethodError, match=r"(?s)layer 2: the model has 2.*0 to 1"):
        build_method("rmu", {"layer": 2}).unlearn(case.job())
    with pytest.raises(MethodError, match="layer numbers the blocks of a language model"):
        build_method("rmu", {"layer": 0}).unlearn(classifier_case().job())
    with pytest.raises(ConfigError, match=r"(?s)c must.*alpha must.*layer must.*weights must"):
        build_method("rmu", {"c": 0, "alpha": -1, "layer": -1, "weights": []})


def test_packing_steers_as_padding_does():
    found = []
    for packing in (False, True):
        case = adapter_case()
        case.model, case.lora = tiny_causal_lm(packing=packing).eval(), None
        found.append(captured("rmu", case.job(), layer=0, alpha=2.0))
    plain, packed = found
    assert packed.loss.total.item() == pytest.approx(plain.loss.total.item(), rel=1e-5)
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(packed.gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@published
@pytest.mark.parametrize("row", ["row0", "row2"])
def test_published_values_of_single_sequences(row):
    """By the method's own way through the model; of a batch the published value is wrong, see tests/parts."""
    values = json.loads((FOLDER / "losses_models.json").read_text())["gpt2_fp64"]
    tensors = load_file(FOLDER / "inputs" / "batches.safetensors")
    current, target = (GPT2LMHeadModel.from_pretrained(FOLDER / "inputs" / f"gpt2_{r}") for r in ("current", "target"))
    method, job = build_method("rmu", {"layer": 1}), language_case().job()

    def states(model, name):
        tokens = {key: tensors[f"{name}_{row}.{key}"] for key in ("input_ids", "attention_mask", "labels")}
        batch = Batch({"tokens": tokens}, {}, None, torch.arange(len(tokens["labels"])))
        return method._states(job, model.double().eval(), batch)

    steered = torch.tensor(values["RMU_control_vec"], dtype=torch.float64)
    said, there = states(current, "forget")
    forget = activation_loss(said, steered, there)
    held, mask = states(target, "retain")
    retain = activation_loss(states(current, "retain")[0], held, mask)
    assert forget.item() == pytest.approx(values[f"RMU_{row}"]["forget_component"], rel=1e-9)
    assert retain.item() == pytest.approx(values[f"RMU_{row}"]["retain_component"], rel=1e-9)
