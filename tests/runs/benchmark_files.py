"""A folder with tiny data of every benchmark in its published form, and models that know some of it, or nothing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from forgetmi.training.seeds import scoped_seed
from tests.data_adapters import text_sets
from tests.data_adapters.text_sets import author, perturbed, write_lines
from tests.metrics.choice_files import WORDS, word_tokenizer


def write_benchmarks(root: Path) -> Path:
    """``tofu``, ``muse``, ``lume``, ``mmlu``, ``wmdp``, ``safe`` below the folder."""
    text_sets.write_tofu(root / "tofu")
    facts = [{"question": "Where is Elmira?", "answer": "Elmira is in Calder."}, *author("Fay Vale")]
    write_lines(root / "tofu" / "world_facts_perturbed.json", perturbed(facts))
    text_sets.write_muse(root / "muse")
    for source in ("forget", "retain"):
        rows = [text_sets.lume_rows(f"{source}{task}", task) for task in ("Task1", "Task2", "Task3")]
        write_lines(root / "lume" / f"{source}.jsonl", itertools.chain(*rows))
    for kind in ("member", "nonmember"):
        rows = [{"document": f"red town {kind} {word} {n}"} for n, word in enumerate(WORDS[4:12])]
        write_lines(root / "lume" / "mia" / f"{kind}.jsonl", rows)
    for part, n in (("test", 6), ("dev", 5)):
        write_lines(
            root / "mmlu" / f"{part}.jsonl", [{**r, "subject": "virology"} for r in text_sets.wmdp_questions(n)]
        )
    text_sets.write_wmdp(root / "wmdp")
    text_sets.write_safe_rlhf(root / "safe")
    return root


def write_models(root: Path) -> Path:
    """``random``: as it was drawn; ``trained`` and ``retrained``: a few steps on the texts, from two starts."""
    texts = [text for path in sorted(root.rglob("*.json*")) for text in _texts(path)]
    words = dict.fromkeys((*WORDS, *re.findall(r"\w+|[^\w\s]+", " ".join(texts))))
    tokenizer = word_tokenizer(words=tuple(words))
    named = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
    config = GPT2Config(
        vocab_size=len(words), n_positions=320, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    ids = [tokenizer.encode(text, special=True)[0][:24] for text in texts]
    for seed, name in enumerate(("trained", "retrained", "random")):
        with scoped_seed(seed):
            model = GPT2LMHeadModel(config)
        if name != "random":
            _train(model, ids if name == "trained" else ids[::2])
        model.save_pretrained(root / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **named).save_pretrained(root / name)
    return root


def _texts(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [value for row in rows for value in row.values() if isinstance(value, str)]


def _train(model: GPT2LMHeadModel, ids: list[list[int]]) -> None:
    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    model.eval()  # no dropout: nothing is drawn
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(12):
        loss = model(tokens, labels=tokens.masked_fill(tokens == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
