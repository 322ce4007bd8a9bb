"""Ours, the published step and the peer on the same batches."""

from __future__ import annotations

import copy
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from forgetmi.models.causal_lm import CausalLM
from forgetmi.parts.objectives.rmu import control_vector
from forgetmi.training.options import build_optimizer
from forgetmi.training.seeds import torch_generator
from lm_bench.data import BETA, STEERING, Setting, count_tokens, make_job, make_method, refusals, steps, tokens_of
from lm_bench.published import PublishedStep

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip
Figures = dict[str, Any]
Prepared = tuple[Callable[[], list[float]], int, int]
"""What is measured, which gives each step's loss; how many steps it takes; how many tokens it sees."""


def resident_mib(what: str = "VmRSS") -> float:
    """Resident memory of this process now, or (``VmHWM``) the largest since the last :func:`forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit("memory is read from /proc: run this on Linux")


def forget_peak() -> float:
    """Give back what is free, let the peak start anew, and say what is resident."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib()


def measure(side: str, setting: Setting, peer: Path | None = None) -> Figures:
    """One run. A tiny network goes the same way before: what is loaded on first use is no part of the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        tiny = replace(setting, inputs=None, network=TINY, records=setting.batch_size, epochs=1, layer=0)
        prepare(side, tiny, peer, Path(scratch))[0]()
        before = forget_peak()
        run, n_steps, n_tokens = prepare(side, setting, peer, Path(scratch))
        wall, processor = time.perf_counter(), time.process_time()
        losses = run()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        peak = resident_mib("VmHWM")
    return {
        "seconds": wall, "cpu_seconds": processor, "steps": n_steps, "tokens": n_tokens, "losses": losses,
        "before_mib": round(before, 1), "peak_mib": round(peak, 1), "added_mib": round(peak - before, 1),
    }  # fmt: skip


def prepare(side: str, setting: Setting, peer: Path | None, scratch: Path) -> Prepared:
    """Weights and records are read; nothing is trained yet."""
    job = make_job(setting)
    method = make_method(setting, refusals(setting, scratch))
    n_steps = n_tokens = 0
    for step in steps(setting, job, method):
        n_steps, n_tokens = n_steps + 1, n_tokens + count_tokens(step)
    if side == "ours":
        return _ours(job, method), n_steps, n_tokens
    batches = list(steps(setting, job, method))
    assert isinstance(job.model, CausalLM)
    lm = job.model.lm
    pad = job.loader.modalities["text"].pad_id  # type: ignore[attr-defined]  # a modality of tokens
    direction = control_vector(lm.config.hidden_size, STEERING, torch_generator(setting.seed, "rmu", "direction"))
    del job  # both train the weights that they were given; only ours leaves them as they were
    if side == "peer":
        from lm_bench.peer import peer_trainer

        assert peer is not None
        trainer = peer_trainer(peer, setting, lm, batches, pad, scratch, direction)
        return lambda: _peer(trainer), n_steps, n_tokens
    published = PublishedStep(setting.method, lm, beta=BETA, layer=setting.layer, direction=direction)
    return lambda: _published(published, batches, setting), n_steps, n_tokens


def _ours(job: Any, method: Any) -> Callable[[], list[float]]:
    losses: list[float] = []
    fit = job.trainer.fit

    def watched(*args: Any, **named: Any) -> Any:
        return fit(*args, **named, on_step=lambda parts: losses.append(parts["loss"]))

    job = replace(job, trainer=copy.copy(job.trainer))
    job.trainer.fit = watched

    def run() -> list[float]:
        method.unlearn(job)
        return losses

    return run


def _peer(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _published(step: PublishedStep, batches: list[Any], setting: Setting) -> list[float]:
    step.lm.train()
    optimizer = build_optimizer(step.lm, setting.fit)
    losses = []
    for given in batches:
        loss = step.loss({name: tokens_of(batch) for name, batch in given.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(step.lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses
