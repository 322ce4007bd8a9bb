"""A fit that is killed anywhere and resumed ends with the weights of an unbroken one, bit for bit."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forgetmi.errors import ForgetMIError, TrainingError
from forgetmi.methods import build_method
from forgetmi.models.weights import state_sha256
from forgetmi.training import trainer as trainer_module
from forgetmi.training.checkpoints import CheckpointFile
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.tiny import classifier_case, same_state, state_of
from tests.training.toys import TASK, N, Net, fit, vector_loader

OPTIONS = FitOptions(epochs=3, batch_size=4, lr=0.02, schedule="cosine", warmup=0.2, mode="train", checkpoint_every=1)
STEPS = 3 * 3


def net() -> Net:
    return Net(dropout=0.4, batchnorm=True)


class Killed(BaseException):
    """Not an Exception: nothing may catch it, as nothing can catch a power cut."""


def kill(monkeypatch, owner, name, at):
    """The call number ``at`` (from 0) of a method dies."""
    real, calls = getattr(owner, name), []

    def dies(*args, **options):
        calls.append(1)
        if len(calls) == at + 1:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, dies)


def trainer(folder: Path, **options) -> Trainer:
    return Trainer(device="cpu", progress=False, checkpoint_dir=folder, **options)


def by_epoch(values):
    return lambda model, epoch: float(values[epoch])


def by_model(model, epoch):
    return float(TASK.nll(model, vector_loader().batch(range(N))).mean())


CASES = {
    "every step": (OPTIONS, None),
    "in pieces": (replace(OPTIONS, accumulate=2, mode="frozen_batchnorm"), None),
    "every epoch": (replace(OPTIONS, checkpoint_every=0), None),
    "every second step, sgd": (replace(OPTIONS, checkpoint_every=2, optimizer="sgd"), None),
    "best": (replace(OPTIONS, select="best"), by_model),
    "best is the first": (replace(OPTIONS, select="best"), by_epoch([1, 2, 3])),
    "stops early": (replace(OPTIONS, select="best", patience=1, epochs=5), by_epoch([2, 1, 3, 0, 0])),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_at_every_step(name, tmp_path, monkeypatch):
    options, validate = CASES[name]
    unbroken, expected = fit(options, model=net(), validate=validate)
    assert expected.steps == STEPS
    for k in range(STEPS):
        folder = tmp_path / str(k)
        with monkeypatch.context() as patch:
            kill(patch, trainer_module._Fit, "_step", k)
            with pytest.raises(Killed):
                fit(options, model=net(), validate=validate, trainer=trainer(folder))
        job = trainer(folder, resume=True)
        resumed, result = fit(options, model=net(), validate=validate, trainer=job)
        assert same_state(state_of(unbroken), state_of(resumed)), f"killed at step {k}"
        assert replace(result, seconds=0) == replace(expected, seconds=0)
        began = next(e for e in job.log.events if e["event"] == "fit_started")
        every = options.checkpoint_every or 3
        saved = max(k - k % 3, k - k % every)  # at the end of each epoch of 3 steps, and every so many steps
        assert (began["epoch"], began["step"]) == divmod(saved, 3), "it did not go on from the last save"


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers, tmp_path, monkeypatch):
    unbroken, _ = fit(OPTIONS, model=net())
    with monkeypatch.context() as patch:
        kill(patch, trainer_module._Fit, "_step", 4)
        with pytest.raises(Killed):
            fit(OPTIONS, model=net(), trainer=trainer(tmp_path, num_workers=workers))
    resumed, _ = fit(OPTIONS, model=net(), trainer=trainer(tmp_path, resume=True, num_workers=workers))
    assert same_state(state_of(unbroken), state_of(resumed))


@pytest.mark.parametrize("place", ["save", "_validate"])
@pytest.mark.parametrize("at", [0, 2])
def test_killed_while_saving_or_validating(place, at, tmp_path, monkeypatch):
    options = replace(OPTIONS, select="best")
    unbroken, _ = fit(options, model=net(), validate=by_model)
    with monkeypatch.context() as patch:
        if place == "save":
            kill(patch, os, "fsync", at)  # the bytes are written, the file is not yet in its place
        else:
            kill(patch, trainer_module._Fit, place, at)
        with pytest.raises(Killed):
            fit(options, model=net(), validate=by_model, trainer=trainer(tmp_path))
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
    resumed, _ = fit(options, model=net(), validate=by_model, trainer=trainer(tmp_path, resume=True))
    assert same_state(state_of(unbroken), state_of(resumed))


@pytest.mark.parametrize("case", ["best", "stops early"])
def test_a_finished_fit_is_found_again_and_not_repeated(case, tmp_path, monkeypatch):
    options, validate = CASES[case]
    first, expected = fit(options, model=net(), validate=validate, trainer=trainer(tmp_path))
    kill(monkeypatch, trainer_module._Fit, "_step", 0)
    again, result = fit(options, model=net(), validate=validate, trainer=trainer(tmp_path, resume=True))
    assert same_state(state_of(first), state_of(again))
    assert replace(result, seconds=0) == replace(expected, seconds=0)


def test_without_resume_a_fit_starts_again(tmp_path):
    fit(OPTIONS, model=net(), trainer=trainer(tmp_path))
    job = trainer(tmp_path)
    fit(OPTIONS, model=net(), trainer=job)
    assert (job.log.events[0]["epoch"], job.log.events[0]["step"]) == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"not a checkpoint",
        lambda data: data[:200] + b"\0" * 200 + data[400:],
    ],
)
def test_a_damaged_checkpoint_is_refused_and_kept(damage, tmp_path):
    fit(OPTIONS, model=net(), trainer=trainer(tmp_path))
    path = tmp_path / "fit.checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=r"fit\.checkpoint\.pt cannot be read"):
        fit(OPTIONS, model=net(), trainer=trainer(tmp_path, resume=True))
    assert path.read_bytes() == before


def test_a_file_with_other_contents_and_a_pickle_are_refused(tmp_path):
    path = tmp_path / "fit.checkpoint.pt"
    for content in (torch.zeros(3), {"model": {}}, [1, 2], {"fingerprint": _Evil()}):
        torch.save(content, path)
        with pytest.raises(TrainingError, match="cannot be read"):
            fit(OPTIONS, model=net(), trainer=trainer(tmp_path, resume=True))
    assert not _Evil.ran


class _Evil:
    ran = False

    def __reduce__(self):
        return (_Evil._run, ())

    @staticmethod
    def _run():
        _Evil.ran = True


@pytest.mark.parametrize(
    "change",
    [
        {"options": replace(OPTIONS, lr=0.03)},
        {"seed": 9},
        {"model": Net(dropout=0.4, batchnorm=True, seed=5)},
        {"n": N - 1},  # other records
        {"identity": "another method"},
    ],
    ids=["options", "seed", "weights", "records", "identity"],
)
def test_a_checkpoint_of_another_fit_is_refused(change, tmp_path):
    fit(OPTIONS, model=net(), trainer=trainer(tmp_path))
    given = {"options": OPTIONS, "model": net(), **change}
    with pytest.raises(TrainingError, match="another run"):
        fit(given.pop("options"), trainer=trainer(tmp_path, resume=True), **given)


def test_another_precision_is_another_fit(tmp_path):
    fit(OPTIONS, model=net(), trainer=trainer(tmp_path))
    with pytest.raises(TrainingError, match="another run"):
        fit(OPTIONS, model=net(), trainer=trainer(tmp_path, resume=True, precision="bf16"))


def test_another_request_or_another_loss_is_another_fit(tmp_path):
    """Going on from a checkpoint of another patient's request would return a model that never forgot this one."""
    case = classifier_case()
    fast = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "mode": "eval"}
    build_method("forget_mi", {"fit": fast}).unlearn(case.job(folder=tmp_path))
    with pytest.raises(TrainingError, match="another run"):
        build_method("forget_mi", {"fit": fast, "direction": "repel"}).unlearn(case.job(folder=tmp_path, resume=True))
    other = case.partition
    case.partition = replace(other, forget=other.forget[:4], excluded=other.forget[4:])
    with pytest.raises(TrainingError, match="another run"):
        build_method("forget_mi", {"fit": fast}).unlearn(case.job(folder=tmp_path, resume=True))


@pytest.mark.parametrize("options", [{"joint": "gate", "gate_training": "retain"}, {"select": "validation"}])
def test_a_method_that_keeps_targets_resumes_bit_identically_at_every_step(options, tmp_path, monkeypatch):
    """The last bits of a kept row depend on the batch that it was computed in: the checkpoint must hold the rows."""
    case = classifier_case()
    fast = {"epochs": 3, "batch_size": 4, "lr": 1e-2, "mode": "eval", "checkpoint_every": 1}
    gate = {"gate_fit": {"epochs": 1, "batch_size": 8, "checkpoint_every": 1}} if "joint" in options else {}
    method = build_method("forget_mi", {"fit": fast, **gate, **options})
    job = case.job(seed=3)
    unbroken = method.unlearn(job)
    steps = sum(e["steps"] for e in job.trainer.log.events if e["event"] == "fit_finished")
    assert steps == 6 + (4 if gate else 0)
    for k in range(steps):
        with monkeypatch.context() as patch:
            kill(patch, trainer_module._Fit, "_step", k)
            with pytest.raises(Killed):
                method.unlearn(case.job(seed=3, folder=tmp_path / str(k)))
        resumed = method.unlearn(case.job(seed=3, folder=tmp_path / str(k), resume=True))
        assert same_state(state_of(unbroken), state_of(resumed)), f"killed at step {k}"


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    file = CheckpointFile(tmp_path / "fit.checkpoint.pt", options=OPTIONS, seed=0, start="x")
    file.save({"number": 1})

    class Full:
        def __init__(self, real):
            self.real = real

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.real.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.real, name)

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args, **options: Full(real(*args, **options)))
    with pytest.raises(ForgetMIError, match="No space left on device"):
        file.save({"number": 2, "tensor": torch.zeros(10_000)})
    monkeypatch.undo()
    assert file.load()["number"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["fit.checkpoint.pt"]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_digests_of_weights_see_names_types_shapes_and_values():
    base = {"a": torch.arange(4.0), "b": torch.tensor(1), "c": torch.empty(0, 3)}
    digest = state_sha256(base)
    assert digest == state_sha256(dict(reversed(base.items())))
    assert digest == state_sha256({**base, "a": torch.arange(8.0)[::2] / 2})  # strides are of no consequence
    others = [
        {**base, "a": base["a"].double()},
        {**base, "a": base["a"].view(2, 2)},
        {**base, "b": torch.tensor(2)},
        {"x": base["a"], "b": base["b"], "c": base["c"]},
        {**base, "c": torch.empty(0, 4)},
    ]
    assert len({digest, *map(state_sha256, others)}) == 6
