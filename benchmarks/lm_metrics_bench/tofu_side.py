"""A TOFU evaluation with all metrics and six membership attacks: ours, and a checkout's of open-unlearning.

INPUTS holds ``model`` (a folder of transformers), ``locuslab/TOFU`` with its sets as files, and
``retain_TOFU_EVAL.json``, the checkout's own evaluation of a retrained model (which it wants for forget quality).
Without them, made-up ones of the same size, for ours alone. Each run is a process of one thread; the sides take turns;
both read the sets, load the model of the reference attack and evaluate inside the clock, and have imported and loaded
their model before. Figures are compared before times are.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
FORMAT = "Question: {prompt}\nAnswer:"
SAME = {
    "forget_Q_A_Prob": "forget_probability",
    "forget_Q_A_ROUGE": "forget_rouge",
    "forget_truth_ratio": "forget_truth_ratio",
    "exact_memorization": "forget_exact_memorisation",
    "extraction_strength": "extraction_strength",
    "model_utility": "model_utility",
    **{f"mia_{name}": name for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm", "reference")},
}
"""Their figures to ours, of one definition."""
AGREEMENT = 2e-5  # their float32 sums over the vocabulary are off by as much
TARGET = 3.0
Figures = dict[str, Any]


def ours(inputs: Path, reference: Path, new_tokens: int) -> Figures:
    """Our evaluation: seconds, rows and tokens through models, figures."""
    import numpy as np
    import torch
    from rouge_score import rouge_scorer  # noqa: F401 - imported before the clock, as everything is

    from forgetmi.attacks.gradient_norms import GradientOptions, gradient_norms
    from forgetmi.batch import Batch
    from forgetmi.data_adapters.tofu import Tofu
    from forgetmi.metrics.choice_scoring import score_values
    from forgetmi.metrics.generation import Decoding
    from forgetmi.metrics.roc import auc
    from forgetmi.metrics.tofu import evaluate_tofu
    from forgetmi.metrics.tofu_result import TofuOptions
    from forgetmi.metrics.token_signals import (
        TokenSignals,
        likelihood,
        min_k,
        min_k_plus_plus,
        zlib_lengths,
        zlib_ratio,
    )
    from forgetmi.modalities.dialogue import DialogueModality
    from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
    from forgetmi.modalities.tokens import IGNORED, TokenExample
    from forgetmi.models.causal_lm import build_causal_lm
    from forgetmi.tasks.causal_lm import CausalLMTask

    torch.set_num_threads(1)
    model = build_causal_lm({"path": inputs / "model"}, 0)
    modality = DialogueModality(read_lm_tokenizer(inputs / "model"), format=FORMAT)
    seen = counted(type(model.lm.base_model))
    wall, processor = time.perf_counter(), time.process_time()

    dataset = Tofu(
        inputs / "locuslab" / "TOFU",
        train=("forget10_perturbed", "retain_perturbed"),
        validation=("real_authors_perturbed", "world_facts_perturbed"),
        test=("holdout10",),
    ).load()
    result = evaluate_tofu(
        model, modality, dataset, TofuOptions("open_unlearning", Decoding(new_tokens), batch_size=64)
    )
    summary = result.summary()
    forget = result.sets["forget"]
    # Their extraction strength is 1/T where no token at the end is right; ours is 0.
    strength = forget.metrics["extraction_strength"].values
    summary["extraction_strength"] = float(np.maximum(strength, 1 / (forget.signals.n_tokens - 1)).mean())

    parts = [result.sets["forget"], result.sets["holdout"]]
    attacked = [{"prompt": q, "answer": a} for part in parts for q, a in zip(part.prompts, part.texts, strict=True)]
    member = np.arange(len(attacked)) < len(parts[0].texts)
    other = score_values(build_causal_lm({"path": reference}, 0), modality, attacked, 64)
    examples = [modality.prepare(value) for value in attacked]
    endless = [TokenExample(e.ids, torch.cat([e.labels[:-1], torch.tensor([IGNORED])])) for e in examples]
    order = np.argsort([-len(example.ids) for example in endless])
    batches = (
        Batch({"tokens": modality.collate([endless[i] for i in few])}, {"tokens": torch.ones(len(few))}, None, few)
        for few in torch.from_numpy(order).split(20)
    )
    published = GradientOptions(aggregate="mean_of_tensors")
    steep = gradient_norms(model, CausalLMTask(), batches, torch.device("cpu"), published)[np.argsort(order)]

    def of_both(score: Callable[[TokenSignals], Any]) -> Any:
        return np.concatenate([score(part.signals) for part in parts])

    n_bytes = {id(part.signals): zlib_lengths(part.texts) for part in parts}
    expected = np.concatenate([-likelihood(other.take(member)), -likelihood(other.take(~member))])
    scores = {
        "loss": of_both(likelihood),
        "zlib": of_both(lambda signals: zlib_ratio(signals, n_bytes[id(signals)])),
        "min_k": of_both(lambda signals: min_k(signals.without_last(), 0.4)),
        "min_k_plus_plus": of_both(lambda signals: min_k_plus_plus(signals.without_last(), 0.4)),
        "reference": expected + of_both(likelihood),
        "gradnorm": -steep,
    }
    summary |= {name: auc(values, member) for name, values in scores.items()}
    return {
        "seconds": time.perf_counter() - wall,
        "processor_s": time.process_time() - processor,
        "rows": sum(rows for rows, _ in seen),
        "tokens": sum(tokens for _, tokens in seen),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "summary": summary,
    }


def counted(body: Any) -> list[tuple[int, int]]:
    """(rows, tokens with padding) of each pass through models of a class, from now on."""
    seen: list[tuple[int, int]] = []
    forward = body.forward

    def counting(self: Any, *given: Any, **named: Any) -> Any:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        seen.append((ids.shape[0], ids.numel()))
        return forward(self, *given, **named)

    body.forward = counting
    return seen


def other_weights(inputs: Path, folder: Path) -> Path:
    """A model beside the evaluated one, for the attack that compares with a reference: its weights with noise."""
    import torch
    from safetensors.torch import load_file, save_file

    made = folder / "reference"
    shutil.copytree(inputs / "model", made)
    draw = torch.Generator().manual_seed(0)
    weights = load_file(made / "model.safetensors")
    noisy = {
        name: weight + 0.2 * weight.std() * torch.randn(weight.shape, generator=draw) if weight.ndim > 1 else weight
        for name, weight in sorted(weights.items())
    }
    save_file(noisy, made / "model.safetensors", metadata={"format": "pt"})
    return made


def made_up(folder: Path, n: int) -> Path:
    """Inputs about as large as the published workload's: n questions a set, random weights, words without meaning."""
    import numpy as np
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from forgetmi.models.causal_lm import build_causal_lm

    network = {
        "model_type": "llama", "vocab_size": 5000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 3, "tie_word_embeddings": False,
    }  # fmt: skip
    build_causal_lm({"config": network}, 0).lm.save_pretrained(folder / "model")
    known = ["<unk>", "<s>", "</s>", "<pad>", "Question", "Answer", ":", *(f"w{k}" for k in range(200))]
    backend = Tokenizer(models.WordLevel({token: k for k, token in enumerate(known)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder / "model")
    draw = np.random.default_rng(0)

    def some(words: int) -> list[str]:
        return [f"w{k}" for k in draw.integers(200, size=words)]

    for name in (
        "forget10_perturbed",
        "retain_perturbed",
        "real_authors_perturbed",
        "world_facts_perturbed",
        "holdout10",
    ):
        by_author = name.startswith(("forget", "retain"))
        rows = []
        for _ in range(n if by_author or name == "holdout10" else n // 2):
            answer = some(8 if by_author or name == "holdout10" else 1)
            row: dict[str, Any] = {"question": " ".join(some(14)), "answer": " ".join(answer)}
            if name != "holdout10":
                row["perturbed_answer"] = [" ".join([*answer[:-1], *some(2)]) for _ in range(5 if by_author else 3)]
            if by_author:
                row["paraphrased_answer"] = " ".join(some(10))
            rows.append(row)
        place = folder / "locuslab" / "TOFU" / name
        place.mkdir(parents=True)
        (place / "train.json").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def measure(
    quick: bool, inputs: Path | None = None, peer: Path | None = None, peer_python: str = sys.executable, turns: int = 5
) -> Figures:
    """Both sides in turns.

    Args:
        quick: one turn; made-up inputs are small.
        inputs: see the module's text.
        peer: a checkout of open-unlearning; it needs inputs.
        peer_python: an interpreter that can run it, see ``tofu_peer.py``.
        turns: of each side.
    """
    if peer is not None and inputs is None:
        raise SystemExit("--peer needs --inputs: its evaluation reads a model, TOFU's sets and a retrained model's log")
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent),
        "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    found: Figures = {"made_up": inputs is None, "target": TARGET, "sides": {"ours": []}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = made_up(Path(scratch) / "inputs", 20 if quick else 40) if inputs is None else inputs.resolve()
        given = [str(folder), str(other_weights(folder, Path(scratch)))]
        sides = {"ours": [sys.executable, str(HERE / "tofu_side.py"), *given, "12" if inputs is None else "200"]}
        if peer is not None:
            sides["peer"] = [peer_python, str(HERE / "tofu_peer.py"), str(peer.resolve()), *given]
            found["sides"]["peer"] = []
            environment["HF_DATASETS_CACHE"] = f"{scratch}/datasets"
        for turn in range(1 if quick else turns):
            for side, command in sides.items():
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if ran.returncode:
                    raise SystemExit(f"{side} failed:\n{ran.stderr[-3000:]}")
                made = json.loads(ran.stdout.strip().splitlines()[-1])
                found["sides"][side].append(made)
                print(f"tofu {side} turn {turn + 1}: {made['processor_s']:.2f} processor s", flush=True)
    if peer is not None:
        pair = [found["sides"][side][0]["summary"] for side in ("ours", "peer")]
        found["differences"] = {name: abs(pair[0][mine] - pair[1][name]) for name, mine in SAME.items()}
        found["gain"] = {
            key: median(
                theirs[key] / own[key]
                for own, theirs in zip(found["sides"]["ours"], found["sides"]["peer"], strict=True)
            )
            for key in ("seconds", "processor_s")
        }
    return found


def page(found: Figures) -> list[str]:
    """What was found, as lines of Markdown."""
    data = "made-up data" if found["made_up"] else "the published workload's model and data"
    lines = [
        "## A TOFU evaluation with all metrics and six membership attacks",
        "",
        f"One thread, {data}, a process a run, {len(found['sides']['ours'])} turns; medians, with the range of the "
        "processor's seconds.",
        "",
        "| side | wall s | processor s | rows through models | tokens, padding included | peak MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, runs in found["sides"].items():
        busy = [run["processor_s"] for run in runs]
        cells = [
            {"ours": "ours", "peer": "open-unlearning"}[side],
            f"{median(run['seconds'] for run in runs):.2f}",
            f"{median(busy):.2f} ({min(busy):.2f} to {max(busy):.2f})",
            f"{runs[0]['rows']:,}",
            f"{runs[0]['tokens']:,}",
            f"{median(run['peak_mib'] for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if "gain" in found:
        worst = max(found["differences"], key=found["differences"].__getitem__)
        lines += [
            "",
            f"Gain, median over turns: {found['gain']['processor_s']:.1f} times in processor seconds, "
            f"{found['gain']['seconds']:.1f} times in wall seconds; the target is {found['target']:.0f}. "
            f"{len(found['differences'])} figures of one definition agree to {found['differences'][worst]:.1e}, the "
            f"worst of them {worst}.",
        ]
    return lines


def broken(found: Figures) -> list[str]:
    """Targets that were missed."""
    if "gain" not in found:
        return []
    far = {name: gap for name, gap in found["differences"].items() if not gap <= AGREEMENT}
    problems = [f"tofu: {name} differs by {gap:.1e}" for name, gap in far.items()]
    if found["gain"]["processor_s"] < found["target"]:
        problems.append(f"tofu: {found['gain']['processor_s']:.1f} times faster, not {found['target']:.0f}")
    return problems


if __name__ == "__main__":
    print("\n" + json.dumps(ours(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
