import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, T5Config

from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.encoders import ENCODERS, build_encoder

TIMM = "resnet10t"  # about the smallest with batch norm and a 3x3 stem
BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}


def words(length=7, real=(7, 4, 1)):
    mask = (torch.arange(length) < torch.tensor(real)[:, None]).long()
    ids = torch.randint(1, 30, (len(real), length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_every_registered_encoder_can_be_imported():
    for name in ENCODERS:
        assert hasattr(ENCODERS[name], "Options") and hasattr(ENCODERS[name], "to_config")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(16, 16), (17, 9)])
def test_small_resnet_takes_one_or_three_channels_and_any_size(channels, norm, size):
    encoder = build_encoder({"name": "small_resnet", "channels": channels, "widths": [4, 6], "blocks": 2, "norm": norm})
    assert encoder.dim == 6
    assert encoder(torch.rand(2, channels, *size)).shape == (2, 6)
    with pytest.raises(ModelError, match=rf"\[B, {channels}, H, W\]"):
        encoder(torch.rand(2, 4 - channels, 8, 8))


def test_small_resnet_halves_the_resolution_once_a_stage():
    encoder = build_encoder({"name": "small_resnet", "widths": [4, 4, 4], "blocks": 2, "stem_stride": 2})
    assert encoder.blocks(encoder.stem(torch.rand(1, 1, 32, 32))).shape == (1, 4, 4, 4)


def test_group_norm_keeps_records_apart_even_in_training():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 8, 8)
    for norm, apart in (("group", True), ("batch", False)):
        encoder = build_encoder({"name": "small_resnet", "widths": [4], "norm": norm}).train()
        assert torch.allclose(encoder(images)[:2], encoder(images[:2]), atol=1e-6) is apart


def test_small_transformer_ignores_padding_and_what_stands_in_it():
    encoder = build_encoder({"name": "small_transformer", "vocab_size": 30, "dim": 8, "heads": 2}).eval()
    text = words()
    got = encoder(text)
    assert got.shape == (3, 8)
    longer = {key: torch.nn.functional.pad(value, (0, 6)) for key, value in text.items()}
    torch.testing.assert_close(encoder(longer), got, rtol=0, atol=1e-6)
    ids = torch.where(text["attention_mask"].bool(), text["input_ids"], 11)
    torch.testing.assert_close(encoder({**text, "input_ids": ids}), got, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        encoder({"input_ids": text["input_ids"][2:, :1], "attention_mask": torch.ones(1, 1)}),
        got[2:],
        rtol=0,
        atol=1e-6,
    )


def test_small_transformer_sees_the_order_of_words_and_each_layer_is_its_own():
    torch.manual_seed(0)
    encoder = build_encoder({"name": "small_transformer", "vocab_size": 30, "dim": 8, "heads": 2}).eval()
    ids = torch.tensor([[3, 4, 5], [5, 4, 3]])
    first, second = encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert not torch.allclose(first, second, atol=1e-4)
    one, two = (layer.linear1.weight for layer in encoder.layers.layers)
    assert not torch.equal(one, two)


def test_small_transformer_gives_zero_for_a_text_without_tokens_and_refuses_long_ones():
    encoder = build_encoder({"name": "small_transformer", "vocab_size": 30, "dim": 8, "heads": 2, "max_length": 7})
    got = encoder(words(real=(7, 0, 2)))
    assert got.isfinite().all() and (got[1] == 0).all()
    got.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    with pytest.raises(ModelError, match="texts of 8 tokens"):
        encoder(words(length=8))


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_standardises_inside(channels):
    torch.manual_seed(0)
    encoder = build_encoder({"name": "timm", "model": TIMM, "in_chans": channels}).eval()
    images = torch.rand(2, channels, 32, 32)
    mean, std = timm.get_pretrained_cfg(TIMM).mean, timm.get_pretrained_cfg(TIMM).std
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(channels)], dim=1)
    got = encoder(images)
    assert got.shape == (2, encoder.dim)
    torch.testing.assert_close(got, encoder.backbone(by_hand))
    with pytest.raises(ModelError, match="was given images"):
        encoder(torch.rand(2, 4 - channels, 32, 32))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_reads_weights_from_a_local_file_and_stores_without_it(tmp_path, suffix, channels):
    donor = timm.create_model(TIMM)
    file = tmp_path / f"weights{suffix}"
    state = {name: tensor.contiguous() for name, tensor in donor.state_dict().items()}
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    encoder = build_encoder({"name": "timm", "model": TIMM, "in_chans": channels, "weights": str(file)})
    own = encoder.backbone.state_dict()
    assert torch.equal(own["layer1.0.conv1.weight"], donor.layer1[0].conv1.weight)
    stem = donor.conv1[0].weight
    torch.testing.assert_close(own["conv1.0.weight"], stem if channels == 3 else stem.sum(1, keepdim=True))
    file.unlink()
    stored = encoder.to_config()
    assert str(tmp_path) not in json.dumps(stored)
    rebuilt = build_encoder(stored)
    rebuilt.load_state_dict(encoder.state_dict())
    images = torch.rand(2, channels, 32, 32)
    assert torch.equal(rebuilt.eval()(images), encoder.eval()(images))


class _Callable:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_timm_refuses_a_pickle_that_runs_code_and_a_damaged_file(tmp_path, capsys):
    bad = tmp_path / "bad.pth"
    torch.save({"conv1.0.weight": _Callable()}, bad)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for file in (bad, cut):
        with pytest.raises(ModelError) as caught:
            build_encoder({"name": "timm", "model": TIMM, "weights": str(file)})
        assert str(file) in str(caught.value)
    assert "this must never run" not in capsys.readouterr().out


def test_transformers_from_a_folder_and_from_a_config(tmp_path):
    torch.manual_seed(0)
    donor = BertModel(BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"})).eval()
    donor.save_pretrained(tmp_path)
    text = words()
    states = donor(**text).last_hidden_state
    for pooled in ("cls", "mean"):
        encoder = build_encoder({"name": "transformers", "path": str(tmp_path), "pooled": pooled})
        assert encoder.dim == 16 and encoder.training
        got = encoder.eval()(text)
        if pooled == "cls":
            expected = states[:, 0]
        else:
            expected = torch.stack([states[i, :n].mean(0) for i, n in enumerate((7, 4, 1))])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        longer = {key: torch.nn.functional.pad(value, (0, 6)) for key, value in text.items()}
        torch.testing.assert_close(encoder(longer), got, rtol=0, atol=1e-5)
        stored = encoder.to_config()
        assert str(tmp_path) not in json.dumps(stored)
        rebuilt = build_encoder(json.loads(json.dumps(stored))).eval()
        rebuilt.load_state_dict(encoder.state_dict())
        assert torch.equal(rebuilt(text), got)


def test_transformers_folder_that_is_damaged_or_no_encoder(tmp_path):
    BertModel(BertConfig(**{k: v for k, v in BERT.items() if k != "model_type"})).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    save_file({k: v for k, v in whole.items() if "intermediate" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 2 keys.*encoder\.layer\.0.intermediate\.dense\.bias"):
        build_encoder({"name": "transformers", "path": str(tmp_path)})
    save_file({k: v for k, v in whole.items() if "pooler" not in k}, weights, metadata={"format": "pt"})
    build_encoder({"name": "transformers", "path": str(tmp_path)})
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ModelError) as caught:
        build_encoder({"name": "transformers", "path": str(tmp_path)})
    assert str(tmp_path) in str(caught.value)
    t5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).to_dict()
    with pytest.raises(ModelError, match="an encoder and a decoder in one"):
        build_encoder({"name": "transformers", "config": t5})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "smal_resnet"}, "Did you mean 'small_resnet'?"),
        ({}, "option 'name' is required"),
        ({"name": "small_resnet", "channels": 2}, "encoder.channels"),
        ({"name": "small_resnet", "widths": []}, "at least one positive width"),
        ({"name": "small_resnet", "blocks": 0}, "blocks must be at least 1"),
        ({"name": "small_transformer"}, "'vocab_size' is required"),
        ({"name": "small_transformer", "vocab_size": 9, "dim": 10, "heads": 4}, "must be a multiple of heads"),
        ({"name": "small_transformer", "vocab_size": 9, "dropout": 1.0}, "dropout must be in"),
        ({"name": "timm", "model": "resnet18x"}, "Did you mean 'resnet18'?"),
        ({"name": "timm", "model": "resnet18", "mean": [0.5]}, "mean must have 3 values"),
        ({"name": "timm", "model": "resnet18", "weights": "nowhere.pth"}, "there is no file nowhere.pth"),
        ({"name": "timm", "model": "resnet18", "options": {"colour": 1}}, "does not take them"),
        ({"name": "transformers"}, "exactly one of path"),
        ({"name": "transformers", "path": "nowhere"}, "no config.json in nowhere"),
        ({"name": "transformers", "config": {"vocab_size": 9}}, "'model_type' is required"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, message):
    with pytest.raises(ConfigError) as caught:
        build_encoder(config)
    assert message in str(caught.value)
