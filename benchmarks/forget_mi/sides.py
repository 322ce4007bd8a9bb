"""Both sides on the same records: ours through ``ForgetMI.unlearn``, the other one through the published epoch."""

from __future__ import annotations

import copy
import importlib.util
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.forget_mi import ForgetMI
from forgetmi.modalities.image import ImageModality
from forgetmi.modalities.text_noise import TextNoise, perturb_text
from forgetmi.models.forget_mi_classifier import ForgetMIReferenceClassifier
from forgetmi.models.forget_mi_reference import ForgetMIConfig, build_forget_mi_network
from forgetmi.partition import Partition
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.options import FitOptions
from forgetmi.training.reference import Reference
from forgetmi.training.runlog import RunLog
from forgetmi.training.trainer import Trainer

from .data import Data, Setting
from .published import Join, PublishedData, PublishedGate, Savings, published_epoch

LR = 1e-5
WARM_UP = "warm-up"
EPOCH = "epoch"
KEPT = "epoch, original's retain outputs kept"
Marks = list[tuple[float, float]]
"""Wall and processor seconds at the start and at the end of each epoch."""


class Watched(Reference):
    """A reference that the benchmark can empty between two epochs."""

    def fresh(self) -> Watched:
        """Itself: the method's own reference is the one that is watched."""
        return self

    def empty(self) -> None:
        """Keep no output."""
        # not by a state of its own: hashing the weights would count as part of the epoch
        for kept in (self._rows, self._slot, self._nll, self._tokens):
            kept.clear()


class Clock(RunLog):
    """A log that notes the time of each epoch's end, and empties the reference after the first one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.marks = device, Marks()
        self.reference: Watched | None = None

    def event(self, kind: str, /, **fields: Any) -> None:
        """Note the event."""
        super().event(kind, **fields)
        if kind == "epoch" and fields["epoch"] == 0 and self.reference is not None:
            self.reference.empty()
        if kind in ("fit_started", "epoch"):
            self.mark()

    def mark(self) -> None:
        """Note the time, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks.append((time.perf_counter(), time.process_time()))


def make_job(setting: Setting, data: Data, clock: Clock) -> UnlearningJob:
    """The records' first half to be forgotten from the published network with random weights."""
    device = torch.device(setting.device)
    model = ForgetMIReferenceClassifier(build_forget_mi_network(setting.network, setting.seed)).to(device)
    loader = Loader(data.dataset, {"image": ImageModality(setting.image_size), "text": data.text}, cache=False)
    task = ClassificationTask(4, "ordinal")
    everyone, n = tuple(range(len(data.dataset))), setting.records
    clock.reference = Watched(model, task, device)
    return UnlearningJob(
        model=model,
        partition=Partition(data.dataset, everyone[:n], everyone[n:], (), (), "patient"),
        task=task,
        loader=loader,
        trainer=Trainer(device=setting.device, log=clock, progress=False),
        seed=setting.seed,
        reference=clock.reference,
    )


def run_ours(setting: Setting, data: Data, accumulate: int = 1) -> dict[str, Any]:
    """Three epochs of ForgetMI: to warm up; with no output of the original kept; with those of all retain records."""
    clock = Clock(torch.device(setting.device))
    job = make_job(setting, data, clock)
    options = FitOptions(epochs=3, batch_size=setting.batch_size, lr=LR, mode="eval", accumulate=accumulate)
    ForgetMI(joint="gate", fit=options).unlearn(job)
    return _figures(setting, data, clock.marks, [WARM_UP, EPOCH, KEPT])


def run_published(setting: Setting, data: Data, savings: Savings, peer: Path | None) -> dict[str, Any]:
    """Two published epochs: the first one, of a single batch, to warm up."""
    device = torch.device(setting.device)
    torch.manual_seed(setting.seed)
    np.random.seed(setting.seed)  # noqa: NPY002 - the published code draws its noise from the global state
    student, new_gate = _network(setting, peer, savings)
    student.to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)  # as fast as ours
    generator = torch.Generator().manual_seed(setting.seed)
    texts = [record.value("text") for record in data.dataset]
    noisy = [perturb_text(text, TextNoise(), generator) for text in texts]
    held = PublishedData(
        [record.value("image") for record in data.dataset],
        [data.text.prepare(text).tolist() for text in texts],
        [data.text.prepare(text).tolist() for text in noisy],
    )
    n, size = setting.records, setting.batch_size
    steps = [(range(i, min(i + size, n)), range(n + i, n + min(i + size, n))) for i in range(0, n, size)]
    clock = Clock(device)
    clock.mark()
    for chosen in (steps[:1], steps):
        published_epoch(student, teacher, held, chosen, savings, optimizer, new_gate, device)
        clock.mark()
    return _figures(setting, data, clock.marks, [WARM_UP, EPOCH])


def _network(setting: Setting, peer: Path | None, savings: Savings) -> tuple[nn.Module, Callable[[int, int], Join]]:
    """The network and the maker of gates: ours in the published shape, or those of a checkout of the published code."""
    device = torch.device(setting.device)
    if peer is None:
        network = build_forget_mi_network(setting.network, setting.seed)
        network.text_model.packed = savings.packed
        return network, lambda a, b: PublishedGate(a, b).to(device)
    from transformers import BertConfig

    sys.path.insert(0, str(peer))
    try:
        from joint_img_txt.model import ImageTextModel  # type: ignore[import-not-found]  # in the checkout only
    except ImportError as error:
        raise SystemExit(f"--peer: {peer} is no checkout of the published code: {error}") from error
    spec = importlib.util.spec_from_file_location("joint_embedding", peer / "training" / "joint_embedding.py")
    if spec is None or spec.loader is None or not (peer / "training" / "joint_embedding.py").is_file():
        raise SystemExit(f"--peer: {peer} has no training/joint_embedding.py")
    gates = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gates)
    theirs = ImageTextModel(config=BertConfig(**asdict(ForgetMIConfig(**setting.network))))
    return theirs, lambda a, b: gates.Gate(inp1_size=a, inp2_size=b).to(device)


def _figures(setting: Setting, data: Data, marks: Marks, names: list[str]) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epochs = {
        name: {
            "seconds": round(after[0] - before[0], 3),
            "cpu_seconds": round(after[1] - before[1], 3),
            "records_per_second": round(setting.records / (after[0] - before[0]), 5),
        }
        for name, (before, after) in zip(names, pairwise(marks), strict=True)
        if name != WARM_UP
    }
    figures: dict[str, Any] = {
        "epochs": epochs,
        "peak_mib": round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10),
    }
    figures |= {"texts": data.source, "tokens": data.lengths}
    if setting.device == "cuda":
        figures["process_peak_mib"] = figures["peak_mib"]
        figures["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        figures["gpu"] = torch.cuda.get_device_name()
    return figures
