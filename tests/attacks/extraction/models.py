"""Models whose answers are known: a table of characters, and a small GPT that learns what it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM, build_causal_lm
from forgetmi.models.output import ModelOutput

CPU = torch.device("cpu")
LETTERS = "".join(chr(code) for code in range(32, 127)) + "\n"
END = "<|end|>"


def letter_tokenizer() -> LMTokenizer:
    """A token for each character; 0 ends a text."""
    vocabulary = {END: 0, **{letter: n + 1 for n, letter in enumerate(LETTERS)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([END])
    return LMTokenizer(backend, END)


def dialogue(**settings: Any) -> DialogueModality:
    return DialogueModality(letter_tokenizer(), **{"format": "{prompt}\n", **settings})


class Table(nn.Module):
    """Logits of the next character, by a rule of the text so far."""

    def __init__(self, rule: Callable[[str], Sequence[float]]) -> None:
        super().__init__()
        self.rule, self.tokenizer = rule, letter_tokenizer()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        rows = []
        for row in input_ids.tolist():
            text = "".join(LETTERS[i - 1] if i else "" for i in row)
            rows.append([list(self.rule(text[: end + 1])) for end in range(len(row))])
        return ModelOutput(torch.tensor(rows))


def small_gpt(seed: int = 0, *, width: int = 32, positions: int = 128, kind: str = "gpt2") -> CausalLM:
    size = len(LETTERS) + 1
    if kind == "llama":
        config: dict[str, Any] = {"model_type": "llama", "vocab_size": size, "hidden_size": width,
                  "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "max_position_embeddings": positions, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    else:
        config = {"model_type": "gpt2", "vocab_size": size, "n_positions": positions, "n_embd": width, "n_layer": 2,
                  "n_head": 2, "bos_token_id": 0, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
                  "attn_pdrop": 0.0}  # fmt: skip
    return build_causal_lm({"config": config}, seed)


def learn(model: CausalLM, modality: DialogueModality, values: Sequence[Any], *, steps: int, lr: float = 5e-3) -> None:
    """Full batches, so that the result has no chance in it."""
    tokens = modality.collate([modality.prepare(value) for value in values])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        logits = model(tokens["input_ids"], tokens["attention_mask"]).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens["labels"][:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
