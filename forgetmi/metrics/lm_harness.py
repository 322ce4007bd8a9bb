"""General abilities by the Language Model Evaluation Harness (EleutherAI), offline, on tasks that a user gives.

Each task is a YAML file of the Harness with its data beside it. Nothing is downloaded; what the Harness's library of
data sets keeps of the data is thrown away at the end. What was asked for is checked against what was done: the number
of examples before each question, the batch size and the limit stand in the result as the Harness used them.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from forgetmi.errors import ConfigError, DataError, MissingDependencyError, did_you_mean
from forgetmi.metrics.figure import Direction
from forgetmi.metrics.per_example import PerExample
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import CausalLM
from forgetmi.training.modes import preserved_mode
from forgetmi.training.seeds import scoped_seed

_OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class HarnessOptions:
    """What is run, and how.

    Attributes:
        tasks: names of tasks, groups or tags in the folder.
        shots: examples before each question; ``None`` for each task's own number.
        limit: questions of each task that are asked, the first ones; all by default.
        batch_size: sequences scored at a time.
        max_length: of a sequence in tokens; what the model has positions for by default.
        add_bos: whether a text begins with the token for it; ``None``: as the tokenizer does.
        chat: ask through the tokenizer's chat template.
        forgotten: of ``tasks``, those about what is to be forgotten: their directions are turned round.
        seed: of examples that a task draws, and of sampled answers.

    Raises:
        ConfigError: all that is wrong.
    """

    tasks: tuple[str, ...]
    shots: int | None = None
    limit: int | None = None
    batch_size: int = 8
    max_length: int | None = None
    add_bos: bool | None = None
    chat: bool = False
    forgotten: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            problems.append("tasks: name at least one, each once")
        for name, least in (("shots", 0), ("limit", 1), ("batch_size", 1), ("max_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(f"{name} must be at least {least}, not {value}")
        problems += [f"forgotten: {name!r} is not one of tasks" for name in self.forgotten if name not in self.tasks]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class HarnessResult:
    """What the Harness found.

    Attributes:
        values: task (or group) to metric to value.
        examples: (task, metric) to the value of each question, where the Harness gives one.
        shots, asked: of each task, as the Harness used them: examples before a question, questions.
        versions: of each task, as its file says.
        harness: the Harness's own version.
    """

    values: Mapping[str, Mapping[str, float]]
    examples: Mapping[tuple[str, str], PerExample]
    shots: Mapping[str, int]
    asked: Mapping[str, int]
    versions: Mapping[str, Any]
    harness: str

    def to_dict(self) -> dict[str, Any]:
        """Without the single questions, JSON-able."""
        named = {name: dict(getattr(self, name)) for name in ("shots", "asked", "versions")}
        return {"values": {task: dict(found) for task, found in self.values.items()}, **named, "harness": self.harness}


def run_harness(model: CausalLM, tokenizer: LMTokenizer, folder: Path, options: HarnessOptions) -> HarnessResult:
    """Run tasks of a folder on a model.

    Args:
        model: where it stands, adapter on if it has one; left in the mode it came in.
        tokenizer: the model's.
        folder: holds the tasks' YAML files. Paths to data in them are relative to the working directory, as the
            Harness has it, or absolute.
        options: see there.

    Raises:
        MissingDependencyError: the Harness is not installed.
        ConfigError: there is no such task, or a task that fixes its number of examples at 0 was asked with others (the
            Harness would silently ignore the request).
        DataError: the Harness cannot read a task or its data, offline.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingDependencyError("The Language Model Evaluation Harness", "lm-eval") from error
    with ExitStack() as stack:
        stack.enter_context(_offline(stack.enter_context(tempfile.TemporaryDirectory(prefix="forgetmi-harness-"))))
        tasks = TaskManager(include_path=str(folder), include_defaults=False)
        unknown = [name for name in options.tasks if name not in tasks.all_tasks]
        if unknown:
            where = f"in {folder}"
            raise ConfigError([f"there is no task {n!r} {where}. {did_you_mean(n, tasks.all_tasks)}" for n in unknown])
        stack.enter_context(preserved_mode(model))
        stack.enter_context(_own_randomness(model, options.seed))
        harnessed = HFLM(
            pretrained=model.lm,
            tokenizer=copy.deepcopy(tokenizer.for_transformers),  # it gets a token for padding
            batch_size=options.batch_size,
            max_length=options.max_length,
            add_bos_token=options.add_bos,
        )
        try:
            found = lm_eval.simple_evaluate(
                model=harnessed,
                tasks=list(options.tasks),
                task_manager=tasks,
                num_fewshot=options.shots,
                limit=options.limit,
                apply_chat_template=options.chat,
                bootstrap_iters=0,  # intervals are made of the questions' own values
                log_samples=True,
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
                fewshot_random_seed=options.seed,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # what data sets and tasks raise
            raise DataError(
                f"the Harness cannot run its tasks: {type(error).__name__}: {error}",
                where=str(folder),
                fix="check the task's file and that its data is on this machine: nothing is downloaded",
            ) from error
        return _result(found, options, lm_eval.__version__)


def _result(found: Mapping[str, Any], options: HarnessOptions, version: str) -> HarnessResult:
    shots = {task: int(n) for task, n in found["n-shot"].items()}
    if ignored := [task for task, n in shots.items() if options.shots is not None and n != options.shots]:
        raise ConfigError(
            [
                f"shots: the task {task} is asked with {shots[task]} examples, not {options.shots}: its file fixes them"
                for task in ignored
            ]
        )
    values: dict[str, dict[str, float]] = {}
    for task, metrics in found["results"].items():
        numbers = {name: value for name, value in metrics.items() if "," in name and isinstance(value, int | float)}
        values[task] = {name.removesuffix(",none"): float(value) for name, value in numbers.items()}
    examples = {}
    for task, samples in found["samples"].items():
        for metric, better in found["higher_is_better"][task].items():
            given = [sample.get(metric) for sample in samples]
            if all(isinstance(value, int | float) for value in given):
                examples[task, metric] = _example(task, metric, given, better, task in _members(found, options))
    asked = {task: int(n["effective"]) for task, n in found["n-samples"].items()}
    return HarnessResult(values, examples, shots, asked, dict(found["versions"]), version)


def _members(found: Mapping[str, Any], options: HarnessOptions) -> set[str]:
    """The tasks about what is to be forgotten, those of groups too."""
    named, left = set(options.forgotten), list(options.forgotten)
    while left:
        inner = found.get("group_subtasks", {}).get(left.pop(), [])
        left += [name for name in inner if name not in named]
        named |= set(inner)
    return named


def _example(task: str, metric: str, given: Sequence[float], better: bool, forgotten: bool) -> PerExample:
    direction: Direction
    if forgotten:
        direction = "remembers_above" if better else "remembers_below"
    else:
        direction = "useful_above" if better else "useful_below"
    return PerExample(
        f"{task}/{metric}",
        np.array(given, dtype=np.float64),
        direction,
        f"{metric} of the task {task} is {{value:.4f}}.",
        bounds=(0.0, 1.0) if set(given) <= {0, 1} else None,
        definition=f"{metric} of the Language Model Evaluation Harness",
    )


@contextmanager
def _offline(cache: str) -> Iterator[None]:
    """No request leaves, and what data sets keep is kept in a folder that is removed. Both settings are read when the
    libraries are imported, so they are changed there: what is set in the environment would come too late, or stay.
    """
    import datasets
    from huggingface_hub import constants

    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, _OFFLINE))
        for module in (datasets.config, constants):
            stack.enter_context(patch.object(module, "HF_HUB_OFFLINE", True))
        stack.enter_context(patch.object(datasets.config, "HF_DATASETS_OFFLINE", True))
        stack.enter_context(patch.object(datasets.config, "HF_DATASETS_CACHE", Path(cache)))
        yield


@contextmanager
def _own_randomness(model: CausalLM, seed: int) -> Iterator[None]:
    """What the Harness draws globally does not change what the caller draws."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with scoped_seed(seed, model.lm.device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
