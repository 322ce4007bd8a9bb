import dataclasses
import json

import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.classifier import build_model

FUSIONS = ("late", "gate", "cross_attention", "outer")
HEADS = ("fused", "per_modality", "both")


def config(fusion="gate", heads="fused", norm="batch", **more):
    return {
        "encoders": {
            "image": {"name": "small_resnet", "widths": [4, 8], "norm": norm},
            "text": {"name": "small_transformer", "vocab_size": 30, "dim": 8, "layers": 1, "heads": 2},
        },
        "fusion": None if heads == "per_modality" else fusion,
        "heads": heads,
        "n_outputs": 3,
        "dim": 8,
        **more,
    }


def batch(image=(True, True, True, True), text=(True, True, True, True), length=6):
    """Four records; the text's tail is padding."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 30, (4, length), generator=generator)
    mask = torch.ones(4, length, dtype=torch.long)
    mask[1, 3:] = 0
    mask[3, 1:] = 0
    return Batch(
        {
            "image": torch.rand(4, 1, 16, 16, generator=generator),
            "text": {"input_ids": ids * mask, "attention_mask": mask},
        },
        {"image": torch.tensor(image), "text": torch.tensor(text)},
        None,
        torch.arange(4),
    )


def tensors(output):
    """Every tensor of an output, by name."""
    found = {"logits": output.logits}
    if output.joint is not None:
        found["joint"] = output.joint
    for group in ("unimodal", "unimodal_logits"):
        found.update({f"{group}.{name}": value for name, value in getattr(output, group).items()})
    return found


def rows(given, chosen):
    pick = torch.tensor(chosen)
    return Batch(
        {
            "image": given.inputs["image"][pick],
            "text": {key: value[pick] for key, value in given.inputs["text"].items()},
        },
        {name: mask[pick] for name, mask in given.present.items()},
        None,
        given.indices[pick],
    )


def same(first, second, **tolerance):
    assert tensors(first).keys() == tensors(second).keys()
    for name, value in tensors(first).items():
        torch.testing.assert_close(value, tensors(second)[name], **tolerance)


EVERY = [(fusion, heads) for heads in ("fused", "both") for fusion in FUSIONS] + [(None, "per_modality")]


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
def test_shapes(fusion, heads):
    output = build_model(config(fusion, heads), seed=0).eval()(batch())
    assert output.logits.shape == (4, 3)
    assert {name: tuple(z.shape) for name, z in output.unimodal.items()} == {"image": (4, 8), "text": (4, 8)}
    assert set(output.unimodal_logits) == (set() if heads == "fused" else {"image", "text"})
    assert all(value.shape == (4, 3) for value in output.unimodal_logits.values())
    assert (output.joint is None) == (heads == "per_modality")
    assert output.joint is None or output.joint.shape == (4, 8)
    assert output.present["image"].tolist() == [True] * 4


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_for_a_missing_modality_has_no_influence(fusion, heads, training):
    clean = batch(image=(True, False, True, False), text=(True, True, False, False))
    image = clean.inputs["image"].clone()
    image[[1, 3]] = float("nan")
    ids, mask = (clean.inputs["text"][key].clone() for key in ("input_ids", "attention_mask"))
    ids[[2, 3]] = 7
    mask[[2, 3]] = 0
    other = dataclasses.replace(clean, inputs={"image": image, "text": {"input_ids": ids, "attention_mask": mask}})
    # In training mode too: blanks must not enter the batch statistics.
    model = build_model(config(fusion, heads), seed=1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = []
    for given in (clean, other):
        model.load_state_dict(state)
        for module in model.modules():
            module.training = training and not isinstance(module, torch.nn.Dropout | torch.nn.TransformerEncoderLayer)
        with torch.no_grad():
            outputs.append(model(given))
    same(*outputs, rtol=0, atol=0)
    output = outputs[0]
    assert all(value.isfinite().all() for value in tensors(output).values())
    for group in (output.unimodal, output.unimodal_logits):
        for name, value in group.items():
            gone = ~clean.present[name]
            assert (value[gone] == 0).all() and (value[~gone] != 0).any(dim=1).all()
    # Nothing of the record is left where both are missing, yet a present modality does matter.
    if output.joint is not None:
        assert not torch.equal(output.joint[1], output.joint[3])
        assert not torch.equal(output.joint[2], output.joint[3])


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
def test_a_batch_without_any_modality_is_finite(fusion, heads):
    none = (False,) * 4
    output = build_model(config(fusion, heads), seed=1).train()(batch(none, none))
    assert all(value.isfinite().all() for value in tensors(output).values())
    assert torch.equal(output.logits[0], output.logits[1])


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
def test_a_record_does_not_depend_on_its_batch_mates_in_eval_mode(fusion, heads):
    model = build_model(config(fusion, heads), seed=2).eval()
    whole = batch(image=(True, False, True, True), text=(True, True, False, True))
    with torch.no_grad():
        together = tensors(model(whole))
        for i in range(4):
            for name, value in tensors(model(rows(whole, [i]))).items():
                torch.testing.assert_close(value[0], together[name][i], rtol=0, atol=1e-6)
        reordered = tensors(model(rows(whole, [2, 0, 3])))
    for name, value in reordered.items():
        torch.testing.assert_close(value, together[name][[2, 0, 3]], rtol=0, atol=1e-6)


def test_padding_does_not_change_the_output():
    model = build_model(config(), seed=3).eval()
    short = batch()
    text = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in short.inputs["text"].items()}
    long = dataclasses.replace(short, inputs={**short.inputs, "text": text})
    with torch.no_grad():
        same(model(short), model(long), rtol=0, atol=1e-6)


def test_without_a_fused_head_the_logits_are_the_mean_over_what_is_present():
    model = build_model(config(heads="per_modality"), seed=4).eval()
    output = model(batch(image=(True, False, True, False), text=(True, True, False, False)))
    image, text = output.unimodal_logits["image"], output.unimodal_logits["text"]
    expected = torch.stack([(image[0] + text[0]) / 2, text[1], image[2], torch.zeros(3)])
    torch.testing.assert_close(output.logits, expected)
    head = model.unimodal_heads["text"]
    torch.testing.assert_close(text[1], head.weight @ output.unimodal["text"][1] + head.bias)


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
def test_every_parameter_is_trained(fusion, heads):
    # A small beta, because the gate's bound has a gradient only where it holds the shift back.
    chosen = {"name": "gate", "beta": 0.01} if fusion == "gate" else fusion
    model = build_model(config(chosen, heads), seed=5)
    output = model(batch(image=(True, False, True, True), text=(True, True, False, True)))
    target = output.logits.square().sum() + sum(value.square().sum() for value in output.unimodal_logits.values())
    target.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Keys' bias shifts all of a query's scores alike, which softmax ignores: its gradient is rounding noise.
    assert [name for name in idle if "in_proj_bias" not in name] == []


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (build_model(config(), seed).state_dict() for seed in (6, 6, 7))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    late = build_model(config(), 6).state_dict()
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], late[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("fusion", "heads"), EVERY)
def test_the_config_builds_the_same_architecture(fusion, heads):
    model = build_model(config(fusion, heads, dropout=0.25), seed=8)
    stored = json.loads(json.dumps(model.to_config()))
    other = build_model(stored, seed=8)
    assert other.to_config() == stored
    assert {n: v.shape for n, v in model.state_dict().items()} == {n: v.shape for n, v in other.state_dict().items()}
    same(model.eval()(batch()), other.eval()(batch()), rtol=0, atol=0)


def test_dropout_is_off_in_eval_mode_and_on_in_training():
    model = build_model(config(norm="group", dropout=0.5), seed=9)
    model.encoders.eval()
    assert not torch.equal(model(batch()).logits, model(batch()).logits)
    assert torch.equal(model.eval()(batch()).logits, model(batch()).logits)


def test_all_mistakes_are_told_at_once():
    wrong = {
        "encoders": {
            "image": {"name": "small_resnet", "width": 3},
            "text": {"name": "small_transfomer"},
            "more": {"blocks": 1},
        },
        "fusion": {"name": "gate", "main": "sound"},
        "n_outputs": 2,
    }
    with pytest.raises(ConfigError) as caught:
        build_model(wrong, seed=0)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "Did you mean 'widths'?" in text and "Did you mean 'small_transformer'?" in text
    assert "model.encoders.more: option 'name' is required" in text
    assert "'sound' is not a modality of this model; it has image, text" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion": "gat"}, "Did you mean 'gate'?"),
        ({"n_outputs": 0}, "n_outputs must be at least 1"),
        ({"n_output": 2}, "Did you mean 'n_outputs'?"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"encoders": {}}, "at least one modality"),
        ({"encoders": {"chest film": {"name": "small_resnet"}}}, "'chest film' must be a word"),
        ({"encoders": {"keys": {"name": "small_resnet"}}}, "'keys' must be a word"),
        ({"heads": "per_modality"}, "fuse nothing"),
        ({"heads": "two"}, "model.heads"),
        ({"fusion": {"name": "outer", "rank": 1000}}, "lower the rank"),
        ({"fusion": {"name": "cross_attention", "heads": 3}}, "must be a multiple of heads"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ConfigError) as caught:
        build_model({**config(), **change}, seed=0)
    assert message in str(caught.value)


def test_a_batch_without_one_of_the_models_modalities_is_refused():
    given = batch()
    with pytest.raises(ModelError, match="no input for text"):
        build_model(config(), seed=0)(dataclasses.replace(given, inputs={"image": given.inputs["image"]}))
