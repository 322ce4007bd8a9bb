"""Training the last layers only: CF-k and EU-k."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods.base import Needs, UnlearningJob, UnlearningMethod, check_job
from forgetmi.parts.edits.layers import Layer, layers
from forgetmi.training.options import FitOptions
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.seeds import derive_seed


@dataclass(frozen=True)
class CFk:
    """CF-k (Goel et al. 2022, arXiv 2201.06640): fine-tune the last k layers on D_r, the rest frozen.

    Frozen weights, and the statistics of BatchNorm layers whose weights are frozen, stay bit-identical (in the
    published code the statistics move). With k at the number of layers it is fine-tuning, with k = 0 the original. The
    Forget-MI paper's "first two layers frozen" is another baseline.

    Our reading: layers count in reverse order of definition, those only that the loss reaches
    (:func:`~forgetmi.parts.edits.layers.layers`); normalisation that stands behind a trained layer is trained too.

    Attributes:
        k: number of layers, >= 0.
        fit: epochs, learning rate and the rest.
    """

    k: int = 2
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4))

    name: ClassVar[str] = "cf_k"
    paper: ClassVar[str] = "CF-k (Goel et al. 2022, arXiv 2201.06640)"
    needs: ClassVar[Needs] = Needs(forget=False)

    def __post_init__(self) -> None:
        _check_k(self.k)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model with its last layers fine-tuned."""
        check_job(self, job)
        model = job.copy_of_original()
        trained = {name for layer in _last(self.k, model, job) for name in (*layer.weights, *layer.along)}
        _train(self, job, model, trained, self.fit, order_seed=job.order_seed("retain"))
        return model


@dataclass(frozen=True)
class EUk:
    """EU-k (Goel et al. 2022, arXiv 2201.06640): the same with the last k layers made anew before they are trained.

    They get the weights that an untrained model has: random, or those of pre-training where the original started
    from them. With k at the number of layers, and ``reset_norms``, it is retraining.

    Attributes:
        k: number of layers, >= 0.
        reset_norms: make normalisation (weights and statistics) and what else goes along anew too; published: no.
        fit: epochs, learning rate and the rest; published, and the default: the original's own recipe.
    """

    k: int = 2
    reset_norms: bool = False
    fit: FitOptions | None = None

    name: ClassVar[str] = "eu_k"
    paper: ClassVar[str] = "EU-k (Goel et al. 2022, arXiv 2201.06640)"
    needs: ClassVar[Needs] = Needs(forget=False, fresh_model=True)

    def __post_init__(self) -> None:
        _check_k(self.k)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The model with its last layers trained from the start."""
        check_job(self, job)
        if job.fresh_model is None or job.recipe is None:
            raise MethodError("eu_k needs fresh_model and recipe")
        model = job.copy_of_original()
        last = _last(self.k, model, job)
        fresh = job.fresh_model(derive_seed(job.seed, "retrain", "weights")).state_dict()
        anew = {name for layer in last for name in (*layer.weights, *(layer.along if self.reset_norms else ()))}
        modules = {name.rpartition(".")[0] for name in anew}
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                statistic = name not in parameters and name.rpartition(".")[0] in modules
                if name in anew or statistic:
                    tensor.copy_(fresh[name])
        trained = {name for layer in last for name in (*layer.weights, *layer.along)}
        fit = self.fit or job.recipe
        _train(self, job, model, trained, fit, order_seed=derive_seed(job.seed, "retrain", "order"))
        return model


def _check_k(k: int) -> None:
    if k < 0:
        raise ConfigError([f"k must be >= 0, not {k}"])


def _last(k: int, model: nn.Module, job: UnlearningJob) -> list[Layer]:
    return layers(model, job.task, job.loader, job.partition.retain, device=job.trainer.device)[:k]


def _train(
    method: UnlearningMethod,
    job: UnlearningJob,
    model: nn.Module,
    trained: Collection[str],
    fit: FitOptions,
    *,
    order_seed: int,
) -> None:
    """Train these parameters on D_r; afterwards those that may move are those that could before."""
    if not trained:
        return
    movable = [p for p in model.parameters() if p.requires_grad]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in trained)
    train_by_recipe(
        model,
        task=job.task,
        loader=job.loader,
        train=job.partition.retain,
        validation=job.partition.validation,
        recipe=fit,
        trainer=job.trainer,
        order_seed=order_seed,
        seed=job.seed,
        name=method.name,
        identity=job.identity(method),
    )
    for parameter in movable:
        parameter.requires_grad_(True)
