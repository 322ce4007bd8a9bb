"""One and two processes make the same weights of the same global batches."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forgetmi.methods import build_method
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.runlog import RunLog
from forgetmi.training.trainer import Trainer
from tests.tiny import classifier_case
from tests.training.toys import TASK, N, Net, fit, vector_loader

OPTIONS = FitOptions(epochs=2, batch_size=4, lr=0.05, clip_norm=0.5, mode="eval")


def _trainer(folder: Path, **options) -> Trainer:
    return Trainer(device="cpu", progress=False, log=RunLog(folder / "log.jsonl"), **options)


def _supervised(folder: Path):
    """Batches of 4, 4 and 3, so that pieces differ in size."""
    model, result = fit(OPTIONS, trainer=_trainer(folder))
    return model, result.history


def _in_pieces(folder: Path):
    """Three pieces a process: a batch of 4 gives some process an empty piece."""
    model, result = fit(replace(OPTIONS, accumulate=3), trainer=_trainer(folder))
    return model, result.history


def _resumed(folder: Path):
    options = replace(OPTIONS, checkpoint_every=1)
    calls = []

    def stops(model, batches):
        calls.append(1)
        if len(calls) == 5:
            raise InterruptedError
        return Loss(TASK.loss(model, batches["records"]), {})

    with contextlib.suppress(InterruptedError):
        fit(options, trainer=_trainer(folder, checkpoint_dir=folder), objective=stops)
    trainer = _trainer(folder, checkpoint_dir=folder, resume=True)
    model, result = fit(options, trainer=trainer)
    return model, result.history


def _chosen(folder: Path):
    """In train mode each process has its own BatchNorm statistics: all must still choose and stop alike."""

    def validate(model, epoch):
        return -float(TASK.nll(model, vector_loader().batch(range(N))).mean())  # the worst: the first epoch is best

    options = replace(OPTIONS, epochs=5, mode="train", select="best", patience=1, lr=0.01)
    model, result = fit(options, model=Net(batchnorm=True), validate=validate, trainer=_trainer(folder), n=12)
    return model, [{"epochs": result.epochs, "best": result.best_epoch}]


def _forget_mi(folder: Path):
    """Heads get no gradient, some pieces lack a modality, and there are fewer forget records than processes want."""
    case = classifier_case()
    job = case.job()
    job.trainer.log = RunLog(folder / "log.jsonl") if int(os.environ.get("RANK", 0)) == 0 else RunLog()
    # Plain SGD: Adam makes whole steps of gradients that are zero but for rounding (a key bias in attention).
    fit = {"epochs": 2, "batch_size": 5, "lr": 0.05, "mode": "eval", "optimizer": "sgd"}
    return build_method("forget_mi", {"fit": fit}).unlearn(job), []


def _terms(folder: Path):
    """A sum whose second term is computed after the first one's gradient: one backward pass where there are two."""

    def in_turn(model, batches):
        loss = 0.5 * TASK.loss(model, batches["records"])
        return Loss(loss, {}, lambda: Loss(0.7 * TASK.loss(model, batches["records"]), {}))

    model, result = fit(OPTIONS, trainer=_trainer(folder), objective=in_turn)
    return model, result.history


JOBS = {job.__name__: job for job in (_supervised, _terms, _in_pieces, _resumed, _chosen, _forget_mi)}


def _child(rank: int, port: int, name: str, folder: Path) -> None:
    from accelerate.state import AcceleratorState

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    AcceleratorState._reset_state(reset_partial_state=True)  # this process was forked from one that trained alone
    try:
        model, history = JOBS[name](folder)
        assert torch.distributed.get_world_size() == 2
        torch.save({"state": model.state_dict(), "history": history}, folder / f"rank{rank}.pt")
    except BaseException:
        (folder / f"rank{rank}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(0)


def _two(name: str, folder: Path) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(rank, port, name, folder)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        if child.is_alive():
            child.kill()
            pytest.fail("two processes wait for each other")
    for rank in range(2):
        if (note := folder / f"rank{rank}.txt").exists():
            pytest.fail(note.read_text())
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_make_the_weights_of_one(name, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, history = JOBS[name](tmp_path / "one")
    first, second = _two(name, tmp_path / "two")
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), f"the two processes disagree on {key}"
        if name != "_chosen":  # BatchNorm in train mode sees half a batch in each process
            torch.testing.assert_close(value, one.state_dict()[key], atol=1e-5, rtol=1e-5)
    assert first["history"] == second["history"]
    for mine, theirs in zip(history, first["history"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5)
    events = (tmp_path / "two" / "log.jsonl").read_text().count('"fit_finished"')
    assert events == 1, "every process wrote the log"
