import dataclasses
import json
from collections import OrderedDict

import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.forget_mi_classifier import ForgetMIReferenceClassifier, build_forget_mi_classifier
from forgetmi.models.forget_mi_reference import (
    ForgetMIConfig,
    ForgetMINetwork,
    build_forget_mi_network,
    load_forget_mi_checkpoint,
)
from tests.models import forget_mi_facts as facts

LEAST = 1537  # the smallest side that gives 768 features
EXACT = {"rtol": 0, "atol": 1e-5}


def checkpoint(folder, state=None, **changes):
    folder.mkdir(exist_ok=True)
    config = {**facts.config_json(facts.SMALL), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))
    state = facts.random_state(facts.SMALL) if state is None else state
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_forget_mi_checkpoint(checkpoint(tmp_path_factory.mktemp("authors")))


def inputs(side, records=1):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 60, (records + 1, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 7:] = 0
    types = torch.zeros_like(ids)
    types[:, 5:] = 1
    return torch.rand(records, 1, side, side, generator=generator), ids, mask, types


def test_keys_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        network = ForgetMINetwork(ForgetMIConfig())
    state = network.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == facts.shapes(facts.PUBLISHED)
    assert len(state) == 421
    assert sum(parameter.numel() for parameter in network.parameters()) == 113_238_164


def test_a_checkpoint_loads_unchanged_in_eval_mode(loaded):
    assert not any(module.training for module in loaded.modules())
    want = facts.random_state(facts.SMALL)
    got = loaded.state_dict()
    assert list(got) == list(want)
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert loaded.config.num_labels == 4


def compare(network, state, side):
    image, ids, mask, types = inputs(side)
    with torch.no_grad():
        both = network(image, ids[:1], attention_mask=mask[:1], token_type_ids=types[:1])
        wanted = (
            *facts.image_forward(state, image),
            *facts.text_forward(state, facts.SMALL, ids[:1], mask[:1], types[:1]),
        )
    assert [tuple(value.shape) for value in both] == [(1, 768), (1, 4), (1, 24), (1, 4)]
    for got, want in zip(both, wanted, strict=True):
        assert want.std() > 0.01
        torch.testing.assert_close(got, want, **EXACT)


def test_the_four_outputs_are_those_of_the_published_arithmetic(loaded):
    compare(loaded, facts.random_state(facts.SMALL), LEAST)


@pytest.mark.slow
def test_the_four_outputs_at_the_published_image_size(loaded):
    compare(loaded, facts.random_state(facts.SMALL), 2048)


def test_text_outputs_with_and_without_mask_and_types(loaded):
    state = facts.random_state(facts.SMALL)
    _, ids, mask, types = inputs(8)
    seen = []
    for m, t in ((mask, types), (mask, None), (None, types), (None, None)):
        with torch.no_grad():
            got = loaded.text_model(ids, m, t)
        for value, want in zip(got, facts.text_forward(state, facts.SMALL, ids, m, t), strict=True):
            torch.testing.assert_close(value, want, **EXACT)
        seen.append(got[0][1])
    assert not any(torch.allclose(seen[i], seen[j], atol=1e-3) for i in range(4) for j in range(i))


def test_dropout_sits_on_the_text_embedding_and_nowhere_in_the_image_branch(loaded):
    network = build_forget_mi_network(dataclasses.asdict(loaded.config), seed=0).train()
    network.text_model.bert.eval()
    _, ids, mask, _ = inputs(8)
    embedding, _ = network.text_model(ids, mask)
    share = (embedding == 0).float().mean()
    assert 0 < share < 0.4
    assert not any(isinstance(module, torch.nn.Dropout) for module in network.img_model.modules())


def test_names_from_before_layer_norm_was_renamed_and_stored_position_ids(tmp_path, loaded):
    old = {}
    for name, value in facts.random_state(facts.SMALL).items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = value
    old["text_model.bert.embeddings.position_ids"] = torch.arange(32)[None]
    got = load_forget_mi_checkpoint(checkpoint(tmp_path / "old", old)).state_dict()
    assert all(torch.equal(got[name], value) for name, value in loaded.state_dict().items())


def test_number_of_classes_from_num_labels(tmp_path):
    folder = checkpoint(tmp_path / "c", num_labels=4, id2label="left out", label2id="left out")
    assert load_forget_mi_checkpoint(folder).config.num_labels == 4


class _Callable:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_that_holds_more_than_tensors_is_not_read(tmp_path, capsys):
    folder = checkpoint(tmp_path / "c")
    torch.save({**facts.random_state(facts.SMALL), "note": _Callable()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="more than tensors") as caught:
        load_forget_mi_checkpoint(folder)
    assert "state_dict()" in caught.value.fix and "pytorch_model.bin" in caught.value.where
    assert "this must never run" not in capsys.readouterr().out


def test_missing_unexpected_and_misshapen_keys_are_all_listed(tmp_path):
    state = facts.random_state(facts.SMALL)
    del state["img_model.fc1.bias"], state["text_model.bert.pooler.dense.weight"]
    state["img_model.fc2.weight"] = torch.zeros(1)
    state["classifier.bias"] = torch.zeros(7)
    with pytest.raises(ModelError) as caught:
        load_forget_mi_checkpoint(checkpoint(tmp_path / "c", state))
    text = str(caught.value)
    assert "2 missing: img_model.fc1.bias, text_model.bert.pooler.dense.weight" in text
    assert "1 unexpected: img_model.fc2.weight" in text
    assert "classifier.bias: [7], the model has [4]" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": "left out", "layer_norm_eps": "left out"},
            "hidden_size is missing; layer_norm_eps is missing",
        ),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is not supported"),
        ({"id2label": "left out"}, r"num_labels \(or id2label\) is missing"),
        ({"num_attention_heads": 5}, "must be a multiple of num_attention_heads"),
        ({"vocab_size": "many"}, "config.json.vocab_size"),
    ],
)
def test_a_config_that_is_not_the_networks(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        load_forget_mi_checkpoint(checkpoint(tmp_path / "c", **changes))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        load_forget_mi_checkpoint(tmp_path)
    folder = checkpoint(tmp_path / "c")
    weights = folder / "pytorch_model.bin"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b""):
        weights.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_forget_mi_checkpoint(folder)
        assert str(weights) in str(caught.value)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no file pytorch_model\.bin"):
        load_forget_mi_checkpoint(folder)
    checkpoint(folder)
    (folder / "config.json").write_text('{"hidden_size": 2')
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_forget_mi_checkpoint(folder)


@pytest.mark.parametrize("side", [64, 1536, 2561])
def test_an_image_of_another_size_is_refused(loaded, side):
    image = torch.zeros(1, 1, side, LEAST)
    with pytest.raises(ModelError, match=f"{side}x{LEAST} pixels"):
        loaded.img_model(image)


def test_colour_is_refused(loaded):
    with pytest.raises(ModelError, match="was given images"):
        loaded.img_model(torch.zeros(1, 3, LEAST, LEAST))


def small(seed=0, **more):
    return build_forget_mi_classifier({"network": facts.SMALL, **more}, seed)


def test_random_weights_depend_on_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (build_forget_mi_network(facts.SMALL, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    with pytest.raises(ConfigError, match="Did you mean 'hidden_size'"):
        build_forget_mi_network({"hiden_size": 3}, 0)


def batch():
    image, ids, mask, types = inputs(LEAST, records=2)
    return Batch(
        {
            "image": torch.cat([image, torch.full_like(image[:1], float("nan"))]),
            "text": {"input_ids": ids, "attention_mask": mask, "token_type_ids": types},
        },
        {"image": torch.tensor([True, True, False]), "text": torch.tensor([True, False, True])},
        None,
        torch.arange(3),
    )


def test_as_a_model_of_batches():
    model = small().eval()
    given = batch()
    with torch.no_grad():
        output = model(given)
        image, image_logits = model.network.img_model(given.inputs["image"][:2])
        ids, mask, types = (
            given.inputs["text"][key][[0, 2]] for key in ("input_ids", "attention_mask", "token_type_ids")
        )
        text, text_logits = model.network.text_model(ids, mask, types)
        zero = torch.zeros(4)
        torch.testing.assert_close(output.unimodal["image"], torch.stack([image[0], image[1], torch.zeros(768)]))
        torch.testing.assert_close(output.unimodal["text"], torch.stack([text[0], torch.zeros(24), text[1]]))
        wanted = {
            "image": torch.stack([image_logits[0], image_logits[1], zero]),
            "text": torch.stack([text_logits[0], zero, text_logits[1]]),
            "mean": torch.stack([(image_logits[0] + text_logits[0]) / 2, image_logits[1], text_logits[1]]),
        }
        assert output.joint is None
        for name in ("image", "text"):
            torch.testing.assert_close(output.unimodal_logits[name], wanted[name])
        for scored, want in wanted.items():
            other = ForgetMIReferenceClassifier(model.network, logits=scored).eval()
            torch.testing.assert_close(other(given).logits, want)
        torch.testing.assert_close(output.logits, wanted["image"])


def test_names_of_the_modalities():
    model = small(image="film", text="report").eval()
    given = batch()
    renamed = dataclasses.replace(
        given,
        inputs={"film": given.inputs["image"], "report": given.inputs["text"]},
        present={"film": given.present["image"], "report": given.present["text"]},
    )
    with torch.no_grad():
        output = model(renamed)
    assert set(output.unimodal) == set(output.present) == {"film", "report"}
    with pytest.raises(ModelError, match="no input for film, report"):
        model(given)


def test_classifier_from_a_checkpoint_folder(tmp_path, loaded):
    model = build_forget_mi_classifier({"checkpoint": str(checkpoint(tmp_path / "c"))}, seed=0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    stored = model.to_config()
    assert str(tmp_path) not in json.dumps(stored)
    assert build_forget_mi_classifier(stored, 0).to_config() == stored
    with pytest.raises(ConfigError) as caught:
        build_forget_mi_classifier({"checkpoint": "x", "network": {"num_labels": 2}, "image": "a", "text": "a"}, 0)
    assert len(caught.value.problems) == 2 and "both named 'a'" in str(caught.value)
