"""A GGUF file gives the model that was written into it, and its tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.training.seeds import scoped_seed

gguf = pytest.importorskip("gguf")

WIDTH, LAYERS, HEADS, GROUPS, LENGTH = 32, 2, 4, 2, 64
BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
ENDS = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip


def _tokens():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return ["<|end|>", *bytes_to_unicode().values(), "ab"]


def _paired(weight, heads):
    """GGUF keeps the two halves of a rotary pair side by side."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(a Llama, the file that holds it)."""
    tokens = _tokens()
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, max_position_embeddings=LENGTH, rms_norm_eps=1e-5,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with scoped_seed(0):
        model = LlamaForCausalLM(config).eval()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(LENGTH)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(64)
    file.add_head_count(HEADS)
    file.add_head_count_kv(GROUPS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_token_list(tokens)
    file.add_token_scores([0.0] * len(tokens))
    file.add_token_types([3] + [1] * (len(tokens) - 1))
    file.add_token_merges(["a b"])
    file.add_bos_token_id(0)
    file.add_eos_token_id(0)
    names = ENDS | {
        f"model.layers.{n}.{ours}.weight": f"blk.{n}.{theirs}.weight"
        for n in range(LAYERS)
        for ours, theirs in BLOCK.items()
    }
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": HEADS, "k_proj": GROUPS}.get(name.split(".")[-2])
        values = tensor.numpy() if heads is None else _paired(tensor.numpy(), heads)
        file.add_tensor(names[name], np.ascontiguousarray(values))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return model, path


def test_the_model_is_the_one_that_was_written(written):
    model, path = written
    read = build_causal_lm({"path": path}, 0).eval()
    ids = torch.randint(0, read.n_tokens, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(read(ids, torch.ones_like(ids)).logits, model(ids).logits)


def test_its_tokenizer_is_read_too(written):
    tokenizer = read_lm_tokenizer(written[1])
    assert tokenizer.eos == "<|end|>"
    ids, _ = tokenizer.encode("ab c", special=False)
    assert tokenizer.decode(ids) == "ab c" and len(ids) == 3
