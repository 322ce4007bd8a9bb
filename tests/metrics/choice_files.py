"""A tokenizer with the letters of options, and language models whose laws are known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from forgetmi.metrics.multiple_choice import Question
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM, build_causal_lm

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "A", "B", "C", "D", "E", ".", ":", "?", "Question", "Answer", "The", "about",
         "town", "sells", "mirrors", "which", "red", "blue", "green", "old", "new", "bio", "biology")  # fmt: skip
ID = {word: n for n, word in enumerate(WORDS)}


def word_tokenizer(*, bos: bool = True, words: tuple[str, ...] = WORDS) -> LMTokenizer:
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<pad>", "<s>", "</s>"])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LMTokenizer(backend, eos="</s>", pad="<pad>", bos="<s>")


def random_lm(seed: int = 0, positions: int = 128) -> CausalLM:
    config = {"model_type": "gpt2", "vocab_size": len(WORDS), "n_positions": positions, "n_embd": 16, "n_layer": 2,
              "n_head": 2, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
              "initializer_range": 0.5}  # fmt: skip
    return build_causal_lm({"config": config}, seed).eval()


def constant_lm(logits: Mapping[str, float], positions: int = 128) -> CausalLM:
    """Whatever it reads, the next token's logits are these, and 0 for all other tokens."""
    model = random_lm(positions=positions)
    wanted = torch.zeros(len(WORDS))
    for word, value in logits.items():
        wanted[ID[word]] = value
    with torch.no_grad():
        model.lm.transformer.ln_f.weight.zero_()
        model.lm.transformer.ln_f.bias.copy_(torch.eye(16)[0])
        model.lm.lm_head.weight.zero_()
        model.lm.lm_head.weight[:, 0] = wanted
    return model


def quiz(n: int = 8, choices: tuple[str, ...] = ("red town", "blue", "green old town", "new")) -> list[Question]:
    words = ("mirrors", "town", "old mirrors", "new red town")
    return [
        Question(f"which {words[i % 4]} sells?", choices, i % len(choices), ("bio", "old_town")[i % 2])
        for i in range(n)
    ]
