"""One ``map``: here, in processes, as a Slurm array. What other processes are told, and what is left when one fails."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from forgetmi.errors import TrainingError
from forgetmi.training.executors import (
    InProcess,
    ProcessPool,
    SlurmArray,
    Together,
    Work,
    available_cores,
    check_slurm_options,
    ranges,
)

WORKER = """
import os
from pathlib import Path
import torch
from forgetmi.errors import TrainingError

def opened(order):
    def carry_out(task):
        if task == 2:
            raise TrainingError("the third one fails")
        Path(order, f"{task}.txt").write_text(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")
    return carry_out
"""


def _work(**changes):
    given = {"title": "models", "done": lambda task: False, "here": print, "worker": "x:y", "order": "SECRET"}
    return Work(**{**given, **changes})


def test_in_process_goes_one_after_the_other():
    carried = []
    assert InProcess().map(_work(here=carried.append), [3, 1, 2]) == []
    assert carried == [3, 1, 2]


def test_together_goes_all_at_once_or_is_refused():
    carried = []
    assert Together().map(_work(together=carried.append), [3, 1]) == []
    Together().map(_work(together=carried.append), [])
    assert carried == [[3, 1]]
    with pytest.raises(TrainingError, match="cannot be made all at once"):
        Together().map(_work(), [1])


def test_a_pool_works_elsewhere_and_keeps_what_was_finished(tmp_path, monkeypatch, capfd):
    (tmp_path / "elsewhere.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    work = _work(worker="elsewhere:opened", order=str(tmp_path), done=lambda task: (tmp_path / f"{task}.txt").exists())
    with pytest.raises(TrainingError, match="1 of 1 processes that make models failed"):
        ProcessPool(1, threads=2, progress=False).map(work, [0, 2, 3])
    assert (tmp_path / "0.txt").read_text() == "2 2"
    assert stat.S_IMODE((tmp_path / "0.txt").stat().st_mode) == 0o600
    assert not (tmp_path / "3.txt").exists()
    assert "error: the third one fails" in capfd.readouterr().err


def test_a_pool_tells_nothing_in_arguments_and_shares_out_cores_and_gpus(monkeypatch):
    told = []

    class Recorded:
        returncode = 0

        def __init__(self, words, stdin, env):
            told.append((words, env))
            self.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb")

        def poll(self):
            return 0

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    ProcessPool(3, progress=False).map(_work(), [0, 1, 2, 3])
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in told] == ["4", "7", "4"]
    assert {env["OMP_NUM_THREADS"] for _, env in told} == {str(max(1, available_cores() // 3))}
    assert "SECRET" not in str([words for words, _ in told])
    assert ProcessPool(3).map(_work(), []) == []
    assert len(told) == 3


def test_numbers_are_written_as_slurm_reads_them():
    assert ranges([7]) == "7"
    assert ranges([9, 0, 1, 2, 5, 8]) == "0-2,5,8-9"


def test_the_script_says_all_that_a_cluster_needs_and_runs(tmp_path):
    folder = tmp_path / "100% mine"
    array = SlurmArray(folder, "shadows", {"partition": "gpu", "time": "1-00:00:00"}, at_a_time=8)
    assert array.map(_work(command=[sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b"]), [0, 1, 5]) == [
        0, 1, 5
    ]  # fmt: skip
    text = array.script.read_text()
    for line in (
        "--array=0-1,5%8", "--partition=gpu", "--time=1-00:00:00", "--cpus-per-task=4", "--requeue",
        f'--output="{tmp_path}/100%% mine/shadows-%A_%a.log"',
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.count("--time=") == 1
    assert "HF_HUB_OFFLINE=1" in text
    assert "umask 077" in text
    assert "SECRET" not in text
    assert stat.S_IMODE(array.script.stat().st_mode) == 0o600
    run = subprocess.run(
        ["bash", array.script],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "['a b', '5']\n"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A scheduler that only says what it was given."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun"):
        fake = tmp_path / "bin" / name
        fake.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/given\necho "Submitted batch job 42"\n')
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "given"


def test_nothing_is_submitted_unless_asked(tmp_path, sbatch, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "submitit", None)
    SlurmArray(tmp_path / "slurm", "shadows").map(_work(command=["true"]), [1, 2])
    assert not sbatch.exists()
    caplog.set_level("INFO", logger="forgetmi")
    array = SlurmArray(tmp_path / "slurm", "shadows", submit=True)
    assert array.map(_work(command=["true"]), [1, 2]) == [1, 2]
    assert sbatch.read_text() == f"{array.script}\n"
    assert "Submitted batch job 42" in caplog.text


def test_a_scheduler_that_refuses_is_quoted(tmp_path, sbatch, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(TrainingError, match="sbatch did not take the script: invalid partition"):
        SlurmArray(tmp_path / "slurm", "shadows", submit=True).map(_work(command=["true"]), [1])


def test_submitit_is_told_the_command_and_the_numbers(tmp_path, sbatch, caplog):
    pytest.importorskip("submitit")
    caplog.set_level("INFO", logger="forgetmi")
    array = SlurmArray(tmp_path / "slurm", "shadows", {"partition": "gpu"}, at_a_time=2, submit=True)
    array.map(_work(command=["true", "--task"]), [4, 5, 9])
    script = next((tmp_path / "slurm" / "submitit").glob("*.sh")).read_text()
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --array=0-2%2" in script
    assert "umask 077" in script
    assert "job 42" in caplog.text
    pickles = b"".join(path.read_bytes() for path in (tmp_path / "slurm" / "submitit").glob("*.pkl"))
    assert b"--task" in pickles
    assert b"SECRET" not in pickles


def test_options_that_would_break_a_script_are_refused():
    assert check_slurm_options({"partition": "gpu", "gres": "gpu:1", "cpus-per-task": 8}) == []
    bad = {"array": "0-9", "Mem": "1G", "mem;rm": "1", "comment": "a\nrm -rf"}
    assert len(check_slurm_options(bad)) == 4
