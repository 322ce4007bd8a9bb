"""Language models: the two halves are the whole, packing changes nothing, adapters share weights, folders come back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.causal_lm import CausalLM, CausalLMConfig, build_causal_lm
from forgetmi.models.lora import LoraOptions, lora_layers
from forgetmi.models.persistence import load_model, save_model
from forgetmi.models.weights import weights_sha256
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.modes import scoring
from tests.tiny import VOCABULARY, same_state, state_of

TASK = CausalLMTask()
GPT2 = {"model_type": "gpt2", "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY,
        "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
FAMILIES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "llama_tied": {**LLAMA, "tie_word_embeddings": True},
    "gemma2": {**LLAMA, "model_type": "gemma2", "head_dim": 8, "num_key_value_heads": 1, "final_logit_softcapping": 2.0,
               "query_pre_attn_scalar": 8},
    "cohere": {**LLAMA, "model_type": "cohere", "logit_scale": 0.3, "pad_token_id": 0},
    "granite": {**LLAMA, "model_type": "granite", "logits_scaling": 3.0},
}  # fmt: skip


def batch(lengths=(9, 4, 6), start=3, pad_left=False) -> Batch:
    draw = torch.Generator().manual_seed(0)
    width = max(lengths)
    tokens = {name: torch.zeros(len(lengths), width, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    tokens["labels"] = torch.full((len(lengths), width), -100)
    for row, length in enumerate(lengths):
        ids = torch.randint(1, VOCABULARY, (length,), generator=draw)
        place = slice(width - length, width) if pad_left else slice(0, length)
        answer = torch.arange(length) >= start
        tokens["input_ids"][row, place], tokens["attention_mask"][row, place] = ids, 1
        tokens["labels"][row, place] = ids.masked_fill(~answer, -100)
    if pad_left:
        tokens["position_ids"] = (tokens["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    n = len(lengths)
    return Batch({"tokens": tokens}, {"tokens": torch.ones(n, dtype=torch.bool)}, None, torch.arange(n))


def lm(config=GPT2, seed=0, **settings) -> CausalLM:
    return build_causal_lm({"config": config, **settings}, seed).eval()


def trained(model: CausalLM) -> CausalLM:
    """An adapter that says something, as after training."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_halves_are_the_whole(family):
    """Soft caps and scales of the logits stand after the head, where a wrong split would lose them."""
    model, given = lm(FAMILIES[family]), batch()
    assert model.splits
    inputs = {name: given.inputs["tokens"][name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(TASK.output(model, given).logits, model(**inputs).logits)
    mean = model.lm(**given.inputs["tokens"]).loss  # as transformers computes it
    torch.testing.assert_close(TASK.loss(model, given), mean)


def test_a_model_that_cannot_be_split_is_asked_for_all_its_logits(monkeypatch):
    model, given = lm(), batch()
    expected = TASK.nll(model, given)
    monkeypatch.setattr(type(model), "read", lambda self, hidden: self.lm.get_output_embeddings()(hidden) * 2)
    other = lm()
    assert not other.splits and other.hidden(torch.ones(1, 1).long(), torch.ones(1, 1).long()) is None
    torch.testing.assert_close(TASK.nll(other, given), expected)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_packing_and_padding_on_either_side_change_no_loss_and_no_gradient(config):
    plain, packed = lm(config), lm(config, packing=True)
    given, seen = batch((9, 4, 6, 5)), []
    packed.lm.base_model.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape), with_kwargs=True)
    expected = TASK.nll(plain, given)
    torch.testing.assert_close(TASK.nll(packed, given), expected)
    assert tuple(seen[-1]) == (1, 24)  # 4 x 9 places become 24
    torch.testing.assert_close(TASK.nll(plain, batch((9, 4, 6, 5), pad_left=True)), expected)
    for model in (plain, packed):
        TASK.loss(model, given).backward()
    for (name, a), b in zip(plain.named_parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-4, atol=1e-6)
    alone = torch.cat([TASK.nll(packed, given.rows([row])) for row in (2, 0, 3, 1)])
    torch.testing.assert_close(alone, expected[[2, 0, 3, 1]])


def test_batches_that_are_seen_together_take_one_pass_and_give_the_same():
    plain, packed, seen = lm(LLAMA), lm(LLAMA, packing=True), []
    packed.lm.base_model.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape), with_kwargs=True)
    several = [batch((9, 4, 6)), batch((7, 7), start=4), batch((3, 12))]
    assert TASK.together(plain, several) is None, "without packing nothing is gained"
    with TASK.together(packed, several):
        found = [TASK.nll(packed, one) for one in several]
        assert [tuple(shape) for shape in seen] == [(1, 48)]
        again = TASK.nll(packed, several[0])
        assert len(seen) == 2, "a state is given once: its graph may be gone"
    for one, nll in zip(several, found, strict=True):
        torch.testing.assert_close(nll, TASK.nll(plain, one))
    torch.testing.assert_close(again, found[0])
    for values in ([TASK.nll(plain, one) for one in several], found):
        sum(k * nll.sum() for k, nll in enumerate(values, start=1)).backward()
    for (name, a), b in zip(plain.named_parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-4, atol=1e-5)
    aside = [several[0], batch((9, 4), pad_left=True)]
    assert TASK.together(packed, aside) is None, "positions of their own"
    assert TASK.together(packed, [batch((500, 500), start=4), batch((30,))]) is None, "more than are kept at a time"


def test_packing_and_gradient_checkpointing_go_together():
    gradients = []
    for settings in ({}, {"packing": True, "gradient_checkpointing": True}):
        model = lm({**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2}, **settings).train()
        TASK.loss(model, batch((9, 4, 6))).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gemma2", "bloom"])
def test_a_model_in_which_texts_would_see_each_other_is_not_packed(family):
    config = {"bloom": {"model_type": "bloom", "hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32}}
    with pytest.raises(ModelError, match="cannot be packed"):
        lm({**FAMILIES, **config}[family], packing=True)


def test_gradient_checkpointing_changes_no_gradient_and_keeps_less():
    gradients, kept = [], []
    for checkpointing in (False, True):
        model, bytes_kept = lm(LLAMA, gradient_checkpointing=checkpointing).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=bytes_kept: (n.append(t.nbytes), t)[1], lambda t: t):
            loss = TASK.loss(model, batch((20, 30, 30, 30)))
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        kept.append(sum(bytes_kept))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert kept[1] < 0.5 * kept[0]
    with scoring(model):
        assert torch.isfinite(TASK.nll(model, batch())).all()


def test_an_adapter_is_over_the_same_weights_and_can_be_switched_off_or_merged():
    model, given = lm(), batch()
    before, expected = state_of(model), TASK.nll(model, given)
    adapted = model.adapted(LoraOptions(r=2), seed=1)
    assert torch.equal(TASK.nll(adapted, given), expected), "a new adapter says nothing yet"
    shared = {p.data_ptr() for p in model.parameters()}
    own = [name for name, p in adapted.named_parameters() if p.data_ptr() not in shared]
    assert own and own == [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in own)
    trained(adapted)
    said = TASK.nll(adapted, given)
    assert (said - expected).abs().max() > 1e-3
    assert torch.equal(TASK.nll(adapted.without_adapter(), given), expected)
    merged = adapted.without_adapter(merge=True)
    torch.testing.assert_close(TASK.nll(merged, given), said)
    assert not merged.has_adapter and adapted.has_adapter and all(p.requires_grad for p in merged.parameters())
    assert same_state(before, state_of(model)), "the original moved"
    copied = adapted.sharing_copy()
    trained(copied)
    assert torch.equal(TASK.nll(adapted, given), said) and not torch.equal(TASK.nll(copied, given), said)


def test_adapters_depend_on_the_seed_and_on_nothing_else():
    model = lm()
    states = [state_of(model.adapted(LoraOptions(r=2), seed=seed)) for seed in (1, 1, 2)]
    assert same_state(states[0], states[1]) and not same_state(states[0], states[2])
    with pytest.raises(ModelError, match="has an adapter already"):
        model.adapted(LoraOptions(), 0).adapted(LoraOptions(), 0)
    with pytest.raises(ConfigError, match=r"lora\.targets.*c_attn"):
        model.adapted(LoraOptions(targets=("q_proj",)), 0)
    named = model.adapted(LoraOptions(targets=("c_attn",)), 0)
    assert [name.rpartition(".")[2] for name, _ in lora_layers(named.lm)] == ["c_attn"] * 2


@pytest.mark.parametrize("what", ["full", "lora", "merged", "bfloat16", "llama_tied"])
def test_a_stored_model_comes_back_whole(what, tmp_path):
    model = lm(
        FAMILIES["llama_tied"] if what == "llama_tied" else GPT2, dtype="bfloat16" if what == "bfloat16" else "float32"
    )
    if what in ("lora", "merged"):
        model = trained(model.adapted(LoraOptions(r=2, targets=("c_attn", "c_fc")), 1)).eval()
    if what == "merged":
        model = model.without_adapter(merge=True)
    digest = save_model(model, tmp_path / "m", modalities={}, task_config={"name": "causal_lm"})
    loaded = load_model(tmp_path / "m").model
    assert weights_sha256(loaded) == digest and loaded.kind == "causal_lm"
    assert torch.equal(TASK.nll(loaded, batch()), TASK.nll(model, batch()))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert loaded.to_config() == model.to_config()
    assert str(tmp_path) not in (tmp_path / "m" / "model.json").read_text()


def test_weights_come_from_a_folder_and_never_from_elsewhere(tmp_path):
    model = lm()
    model.lm.save_pretrained(tmp_path / "base")
    read = build_causal_lm({"path": tmp_path / "base"}, seed=7).eval()
    assert same_state(state_of(read), state_of(model))
    assert read.to_config()["pretrained"] and "path" not in read.to_config()
    original = build_causal_lm({"path": tmp_path / "base", "checkpoint": tmp_path / "base"}, 0)
    assert same_state(state_of(original), state_of(model))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot read the model base"):
        build_causal_lm({"path": tmp_path / "base"}, 0)
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"package that reads it is not installed|cannot read the model m\.gguf"):
        build_causal_lm({"path": gguf}, 0)


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    """Transformers would draw them at random and go on."""
    model = lm()
    model.lm.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(ModelError, match=r"12 of the model's tensors are missing.*h\.2\."):
        build_causal_lm({"path": tmp_path / "base"}, 0)


def test_every_wrong_setting_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        build_causal_lm(
            {"path": tmp_path, "config": {}, "tuning": "qlora", "lora": {"r": 0, "alpha": -1}, "dtypes": "x"}, 0
        )
    said = "\n".join(caught.value.problems)
    assert all(words in said for words in ("lora.r", "lora.alpha", "dtypes", "exactly one of path"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_weights_in_4_bits_need_cuda():
    with pytest.raises(ConfigError, match=r"tuning: qlora cannot be used here: torch sees no CUDA device"):
        CausalLMConfig(config=GPT2, tuning="qlora")


def test_integers_for_weights_are_seen_and_not_stored():
    model = lm()
    assert not model.is_quantised
    layer = model.lm.transformer.h[0].mlp.c_fc
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.uint8), requires_grad=False)
    assert model.is_quantised
    with pytest.raises(ModelError, match="4 bits cannot be stored"):
        save_model(model, Path("nowhere"), modalities={}, task_config={})
