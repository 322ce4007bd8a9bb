"""A run is one process: what launchers of several processes do to it."""

from __future__ import annotations

import subprocess

import pytest

from forgetmi.errors import ConfigError
from forgetmi.runs import pipeline
from forgetmi.training.executors import ProcessPool, Work
from tests.runs.tiny_source import tiny_settings, write_source

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def launched(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("until", ["original", "unlearned", "audit"])
def test_every_process_of_a_launcher_is_refused_and_leaves_nothing(source, tmp_path, launched, until):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"), run__key_file=str(tmp_path / "site.key"))
    with pytest.raises(ConfigError, match="started 2 times over") as caught:
        pipeline.run(settings, until=until, progress=False)
    assert "start it once" in caught.value.fix
    assert "audit.workers" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_of_one_process_is_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    pipeline._refuse_launcher()


def test_processes_of_a_pool_stand_alone(launched, monkeypatch):
    told = []

    def recorded(*args, env, **options):
        told.append(env)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", recorded)
    work = Work("models", done=lambda task: False, here=print, worker="builtins:print", order=None)
    with pytest.raises(KeyboardInterrupt):
        ProcessPool(2, threads=1, progress=False).map(work, [0, 1])
    assert LAUNCHED.keys().isdisjoint(told[0])
    assert told[0]["OMP_NUM_THREADS"] == "1"
    assert "PATH" in told[0]
