"""EL_10 and memorisation accuracy of 64 texts of 200 tokens, against greedy calls of ``generate`` from every token."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from forgetmi.batch import Loader
from forgetmi.metrics.extraction_likelihood import ExtractionLikelihood, extraction_likelihood
from forgetmi.metrics.generation import plain_decoding
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.causal_lm import CausalLM, build_causal_lm
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.modes import scoring
from forgetmi.training.seeds import numpy_generator, scoped_seed

MODEL: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 512, "n_embd": 128, "n_layer": 2, "n_head": 4}
TEXTS, LENGTH, MAX_N, TARGET = 64, 200, 10, 10.0
TIMES = (1, 2, 4)  # how often a text is seen in an epoch: a third each of those that are seen
ALONE, EVERY = (
    2,
    10,
)  # texts that the call for each text and offset is measured on; every so many offsets of the batched one
FOLLOWERS = 4
CPU = torch.device("cpu")
Figures = dict[str, Any]


def measure(quick: bool) -> Figures:
    """All sides on both models, one after the other on one thread."""
    n, length, epochs = (6, 24, 2) if quick else (TEXTS, LENGTH, 10)
    texts = made_up(n, length)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = {"random weights": fresh(length), "lightly trained": trained(fresh(length), texts, epochs)}
        return {
            "texts": n,
            "length": length,
            "max_n": MAX_N,
            "alone": min(n, ALONE),
            "every": EVERY,
            "target": TARGET,
            "cases": [{"model": name, **compare(model, texts)} for name, model in models.items()],
        }
    finally:
        torch.set_num_threads(before)


def made_up(n: int, length: int) -> torch.Tensor:
    """Ids [n, length]: each token has four that may follow it."""
    draw = numpy_generator(0, "texts")
    followers = draw.integers(0, MODEL["vocab_size"], size=(MODEL["vocab_size"], FOLLOWERS))
    ids = draw.integers(0, MODEL["vocab_size"], size=(n, length))
    for t in range(1, length):
        ids[:, t] = followers[ids[:, t - 1], draw.integers(0, FOLLOWERS, size=n)]
    return torch.from_numpy(ids)


def fresh(length: int) -> CausalLM:
    """Random weights."""
    return build_causal_lm({"config": {**MODEL, "n_positions": length, "bos_token_id": 0, "eos_token_id": 0}}, 0).eval()


def trained(model: CausalLM, texts: torch.Tensor, epochs: int) -> CausalLM:
    """After some passes over three eighths of the texts, some of which are seen more often than others."""
    third = max(1, len(texts) // 8)
    order = torch.cat([texts[k * third : (k + 1) * third].repeat(times, 1) for k, times in enumerate(TIMES)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    model.train()
    with scoped_seed(0):
        for _ in range(epochs):
            for rows in torch.randperm(len(order)).split(8):
                model.lm(input_ids=order[rows], labels=order[rows]).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    return model.eval()


def compare(model: CausalLM, texts: torch.Tensor) -> Figures:
    """Seconds of each side, and by how much their values differ."""
    ours, seconds = timed(lambda: by_package(model, texts))
    length = texts.shape[1]
    some = texts[spread(len(texts))]
    known, one_by_one = timed(lambda: [by_calls(model, text) for text in some])
    chosen = range(1, length, EVERY)
    _, together = timed(lambda: [greedy(model, texts[:, :t], length - t) for t in chosen])
    one_by_one *= len(texts) / len(some)
    together *= sum(range(1, length)) / sum(length - t for t in chosen)
    values, accuracy = (np.array(part) for part in zip(*known, strict=True))
    rows = spread(len(texts))
    own = ours.n_right / ours.n_tokens
    return {
        "seconds": {"package": seconds, "one by one": one_by_one, "together": together},
        "ratio": {"one by one": one_by_one / seconds, "together": together / seconds},
        "difference": {
            "EL": float(np.abs(ours.values[rows] - values).max()), "accuracy": float(np.abs(own[rows] - accuracy).max())
        },
        "decoded": int(ours.n_decoded.sum()),
        "offsets": int(ours.n_tokens.sum()),
        "EL_10": float(ours.values[:, -1].mean()),
        "accuracy": {"mean": float(own.mean()), "least": float(own.min()), "most": float(own.max())},
    }  # fmt: skip


def spread(n: int) -> list[int]:
    """Which texts are asked one by one: the first (which training sees, if rarely) to the last (which it does not)."""
    return np.linspace(n // 5, n - 1, min(n, ALONE)).astype(int).tolist()


def timed(side: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor's seconds: one thread, so that other work on the machine does not count."""
    started = time.process_time()
    return side(), time.process_time() - started


def by_package(model: CausalLM, texts: torch.Tensor) -> ExtractionLikelihood:
    """Ours, from records on."""
    records = [
        Record(f"s{n:03d}", f"s{n:03d}", f"p{n:03d}", "h", {"tokens": (ids, 0)}, None, "train")
        for n, ids in enumerate(texts)
    ]
    dataset = RecordDataset(records, name="made up", levels=("patient",), modality_kinds={"tokens": "tokens"})
    loader = Loader(dataset, {"tokens": TokenModality(pad_id=0)})
    return extraction_likelihood(model, CausalLMTask(), [loader.batch(range(len(texts)))], CPU, max_n=MAX_N)


def by_calls(model: CausalLM, text: torch.Tensor) -> tuple[list[float], float]:
    """EL_1 ... and memorisation accuracy of one text, as they are defined: a greedy call from every token."""
    true, length = text.tolist(), len(text)
    said = {t: greedy(model, text[None, :t], length - t)[0].tolist() for t in range(1, length)}
    values = [
        sum(overlap(said[t], true[t:], n) for t in range(1, length - n + 1)) / (length - n) for n in range(1, MAX_N + 1)
    ]
    return values, sum(said[t][0] == true[t] for t in said) / (length - 1)


def greedy(model: CausalLM, prompts: torch.Tensor, n: int) -> torch.Tensor:
    """What ``generate`` of transformers writes after prompts of one length, with its keys and values kept: [B, n]."""
    with scoring(model), plain_decoding(model.lm, n) as settings:
        written: torch.Tensor = model.lm.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), generation_config=settings
        )
    return written[:, prompts.shape[1] :]


def overlap(said: list[int], true: list[int], n: int) -> float:
    """Share of the n-grams of one that occur in the other."""
    there = {tuple(true[i : i + n]) for i in range(len(true) - n + 1)}
    mine = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
    return sum(gram in there for gram in mine) / len(mine)


def broken(found: Figures) -> list[str]:
    """What is not as it should be."""
    problems = []
    for case in found["cases"]:
        for name, difference in case["difference"].items():
            if difference > 1e-12:
                problems.append(f"{case['model']}: {name} differs by {difference:.1e} from that of one call an offset")
        ratio = case["ratio"]["one by one"]
        if ratio < found["target"]:
            problems.append(f"{case['model']}: {ratio:.1f} times as fast, not {found['target']:g}")
    return problems


def page(found: Figures) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "## EL_10 and memorisation accuracy",
        "",
        f"{found['texts']} texts of {found['length']} tokens; GPT-2 with {MODEL['n_layer']} layers of "
        f"{MODEL['n_embd']}, a vocabulary of {MODEL['vocab_size']}, in float32. Processor seconds of one thread. "
        "*One by one*: a greedy call of `generate` (it keeps keys and values) for each text and each offset, measured "
        f"on {found['alone']} texts and multiplied up: every text takes as many calls of the same lengths. *Together*: "
        "a call for each offset, of all texts at once, as published loops do it, measured on every "
        f"{found['every']}th offset and multiplied up by the tokens written. Values are compared on the texts of *one "
        f"by one*, EL_1 to EL_{found['max_n']}.",
        "",
        "| model | accuracy (range) | EL_10 | offsets decoded | package | one by one | together | times one by one | "
        "times together | values differ by |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in found["cases"]:
        share, ratio = case["accuracy"], case["ratio"]
        cells = [
            case["model"],
            f"{share['mean']:.2f} ({share['least']:.2f}-{share['most']:.2f})",
            f"{case['EL_10']:.3f}",
            f"{case['decoded']} of {case['offsets']}",
            *(f"{seconds:.0f} s" for seconds in case["seconds"].values()),
            f"**{ratio['one by one']:.0f}**",
            f"**{ratio['together']:.1f}**",
            f"{max(case['difference'].values()):.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Target: {found['target']:g} times one by one; values within 1e-12, the rounding of their sums.",
    ]
