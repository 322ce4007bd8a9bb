"""GRIN: noise into the weights that matter for the forget records and not for the others, then training of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.methods.wrapper import NOT_MASKED, Wrapper
from forgetmi.parts.edits.importance import trainable
from forgetmi.parts.edits.layers import layers
from forgetmi.parts.edits.noise import noisy
from forgetmi.parts.updates.mask import Scope, WeightMask, largest
from forgetmi.parts.updates.saliency import gradient_ratio, shares
from forgetmi.parts.updates.streamed import mean_gradient
from forgetmi.training.seeds import numpy_generator, torch_generator


@dataclass(frozen=True)
class GRIN(Wrapper):
    """GRIN (Anjarlekar & Pombra 2025, arXiv 2508.06467): noise into chosen weights, then training of these alone.

        1. s = |g_f| / ( |g_r| + epsilon ) for each weight; m = 1 on the largest ``share`` of them
        2. theta <- theta_0 + noise m z,  z ~ N(0, I)
        3. the inner method from there (published are PO, NPO and GradDiff), moving weights in m only

    ``share: 0`` is the original; ``noise: 0`` is masked fine-tuning; ``share: 1`` noise on all weights and the plain
    method. Weights outside the mask stay bit-identical, under momentum and weight decay too.

    Our reading, for no code is published and the abstract names neither sizes nor norms: g is the gradient, at theta_0,
    of the mean negative log-likelihood of an answer token over D_f, and over as many records of D_r, drawn by the seed
    (``retain_records``); the mask is fixed; fine-tuning keeps to it; the reference of the inner method is the original
    without noise. Every default is ours. The ratio is large above all where g_r is nearly 0, as in the embeddings of
    tokens that stand in D_f alone: so these and the head may be left out, and the log has the mask's share of each kind
    of module. Noise alone lowers every score: compare at equal usefulness, and with ``score: forget`` and ``random``.

    Attributes:
        share: of the weights that may move and are not excluded, in [0, 1].
        scope: the largest of ``all`` weights together, or of ``each`` tensor.
        score: ``ratio``: s. ``forget``: |g_f| alone. ``random``: of equal size, by chance.
        epsilon: >= 0.
        noise: standard deviation, >= 0.
        relative: in units of each tensor's own standard deviation; a tensor of equal numbers gets none.
        exclude: ``embeddings``, ``head``: they stay the original's. Where both share a weight, either excludes it.
        inner, options: a method and its options; published are ``po``, ``npo``, ``grad_diff``.
        retain_records: for g_r; ``None``: as many as there are forget records.
        batch_size: of the gradients; changes speed and memory only.
    """

    share: float = 0.05
    scope: Scope = "all"
    score: Literal["ratio", "forget", "random"] = "ratio"
    epsilon: float = 1e-8
    noise: float = 0.01
    relative: bool = True
    exclude: tuple[Literal["embeddings", "head"], ...] = ("embeddings", "head")
    inner: str = "npo"
    retain_records: int | None = None
    batch_size: int = 8

    name: ClassVar[str] = "grin"
    paper: ClassVar[str] = "GRIN (Anjarlekar & Pombra 2025, arXiv 2508.06467)"
    needs: ClassVar[Needs] = Needs()
    not_around = NOT_MASKED

    def problems(self) -> list[str]:
        """What is wrong with the options."""
        checks = {
            f"share must be in [0, 1], not {self.share}": 0 <= self.share <= 1,
            f"epsilon must be >= 0, not {self.epsilon}": self.epsilon >= 0,
            f"noise must be >= 0, not {self.noise}": self.noise >= 0,
            "retain_records must be >= 1": self.retain_records is None or self.retain_records >= 1,
            f"batch_size must be >= 1, not {self.batch_size}": self.batch_size >= 1,
        }
        return unmet(checks)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The inner method's model."""
        check_job(self, job)
        start = job.copy_of_original()
        masks = self._masks(job, start)
        job.trainer.log.event("mask", method=self.name, shares=shares(masks))
        draw = torch_generator(job.seed, self.name, "noise")
        with torch.no_grad():
            for name, mask in masks.items():
                parameter = start.get_parameter(name)
                parameter.copy_(noisy(parameter, mask, self.noise, draw, relative=self.relative))
        held = WeightMask(masks, start)
        masked = replace(job, start=start, lora=None, trainer=held.constrain(job.trainer))
        model = self.wrapped().unlearn(masked)
        held.restore(model)
        return model

    def _masks(self, job: UnlearningJob, model: nn.Module) -> dict[str, Tensor]:
        """A mask for each weight that may move; all false for those excluded."""
        out = self._excluded(job, model)
        names = [name for name in trainable(model) if name not in out]
        scores = self._scores(job, model)
        chosen = largest({name: scores.pop(name) for name in names}, self.share, self.scope)
        nothing = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.bool) for name in scores}
        return {**chosen, **nothing}

    def _scores(self, job: UnlearningJob, model: nn.Module) -> dict[str, Tensor]:
        if self.score == "random":
            draw = torch_generator(job.seed, self.name, "random")
            weights = trainable(model)
            return {
                name: torch.rand(weight.shape, generator=draw).to(weight.device) for name, weight in weights.items()
            }
        found = self._gradient(job, model, job.partition.forget)
        if self.score == "forget":
            return {name: gradient.abs() for name, gradient in found.items()}
        wanted = len(job.partition.forget) if self.retain_records is None else self.retain_records
        drawn = numpy_generator(job.seed, self.name, "retain").permutation(job.partition.retain)[:wanted]
        retained = self._gradient(job, model, sorted(drawn.tolist()))
        for name in list(found):  # one after another, so that no third set of them is held
            found[name] = gradient_ratio(found[name], retained.pop(name), self.epsilon)
        return found

    def _gradient(self, job: UnlearningJob, model: nn.Module, indices: Sequence[int]) -> dict[str, Tensor]:
        size, device = self.batch_size, job.trainer.device
        return mean_gradient(model, job.task, job.fit_loader(), indices, batch_size=size, device=device)

    def _excluded(self, job: UnlearningJob, model: nn.Module) -> set[str]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found: set[str] = set()
        if "embeddings" in self.exclude:
            tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
            found |= {names[id(table.weight)] for table in tables}
        if "head" in self.exclude:
            head = layers(model, job.task, job.fit_loader(), job.partition.forget, device=job.trainer.device)[0]
            found |= set(head.weights)
        return found
