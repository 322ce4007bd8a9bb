"""Flat logits on the forget set, under a constraint on the retain set whose price is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.methods.forget_retain import paired_plan
from forgetmi.parts.objectives.primal_dual import dual_step, flatness_tokens, lagrangian
from forgetmi.parts.objectives.sequence import token_mean
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions


@dataclass(frozen=True)
class PDU:
    """PDU, primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314).

        min_theta max_{lambda >= 0}  E (max_v z_v - mean_v z_v)^2  + lambda ( L(D_r) - epsilon )

    over the answer tokens of D_f: see :func:`flatness_tokens`, at the logits that predict each token (published code
    reads those behind it). After each step, or epoch, lambda <- max(0, lambda + step (L(D_r) - epsilon)). L is the
    task's own training loss.

    Attributes:
        epsilon: what L(D_r) may be, in its own unit (nats a token, for a language model). Published, TOFU: .3. Take
            what the original has on validation records.
        price: lambda at the start, >= 0. Published: 50 or 100.
        step: of lambda, > 0. Published: 5.
        every: when lambda moves. With ``epoch`` by the epoch's mean of L(D_r).
        warmup: epochs in which lambda stays, >= 0. Published: 5.
        fit: epochs, learning rate and the rest. Published: 1e-5.
    """

    epsilon: float = 0.3
    price: float = 100.0
    step: float = 5.0
    every: Literal["step", "epoch"] = "epoch"
    warmup: int = 5
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=10, lr=1e-5, mode="frozen_batchnorm"))

    name: ClassVar[str] = "pdu"
    paper: ClassVar[str] = "PDU (Entesari et al. 2025, arXiv 2506.05314)"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        checks = {
            "epsilon must be >= 0": self.epsilon >= 0,
            "price must be >= 0": self.price >= 0,
            "step must be > 0": self.step > 0,
            "warmup must be >= 0": self.warmup >= 0,
        }
        if problems := unmet(checks) + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model."""
        check_job(self, job)
        price = Price(self)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            batch = batches["forget"]
            margins = job.task.over_tokens(_flatness, batch, job.task.output(model, batch))
            flat, retain = token_mean(*margins), job.task.loss(model, batches["retain"])
            return Loss(lagrangian(flat, retain, price.value, self.epsilon), {"forget": flat, "retain": retain})

        model = job.copy_of_original()
        job.trainer.fit(
            model,
            paired_plan(job, self.fit),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
            memory=price,
            on_epoch=price.begin,
            on_step=price.see,
        )
        job.trainer.log.event("price", fit=self.name, value=price.value)
        return model


class Price:
    """The multiplier lambda as a fit goes on."""

    def __init__(self, method: PDU) -> None:
        self.method, self.value = method, method.price
        self.epoch, self.total, self.steps = 0, 0.0, 0

    def begin(self, epoch: int) -> None:
        """An epoch begins, or is gone on with: the one before is settled."""
        if epoch == self.epoch:
            return
        if self.method.every == "epoch" and self.epoch >= self.method.warmup and self.steps:
            self._move(self.total / self.steps)
        self.epoch, self.total, self.steps = epoch, 0.0, 0

    def see(self, parts: Mapping[str, float]) -> None:
        """A step is done."""
        self.total, self.steps = self.total + parts["retain"], self.steps + 1
        if self.method.every == "step" and self.epoch >= self.method.warmup:
            self._move(parts["retain"])

    def _move(self, retain: float) -> None:
        self.value = dual_step(self.value, retain, self.method.epsilon, self.method.step)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"value": self.value, "epoch": self.epoch, "total": self.total, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self.value, self.epoch, self.total, self.steps = (state[key] for key in ("value", "epoch", "total", "steps"))


def _flatness(logits: Tensor, _: Tensor) -> Tensor:
    return flatness_tokens(logits)
