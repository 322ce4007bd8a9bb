"""The second of SemEval-2025 task 4: two adapters, one that forgets more and one that keeps more, merged by TIES."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.methods.forget_retain import paired_plan
from forgetmi.models.causal_lm import CausalLM
from forgetmi.models.lora import ADAPTER, LoraOptions, add_lora, lora_layers
from forgetmi.parts.edits.task_vectors import ties
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.sequence import token_mean
from forgetmi.parts.updates.mask import Scope
from forgetmi.training.losses import Loss
from forgetmi.training.options import FitOptions
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import derive_seed, scoped_seed

Adapter = dict[str, Tensor]


@dataclass(frozen=True)
class ZJUKLAB:
    """ZJUKLAB (Xu et al., SemEval-2025 task 4, arXiv 2503.21088): two adapters, merged.

    Each adapter on the original is trained with its own weights of

        a NPO(D_f) + b KL( p_0 || p_theta )(D_r) + c L(D_r),

    merged by TIES (:func:`~forgetmi.parts.edits.task_vectors.ties`) and folded into the weights: what comes back has no
    adapter that could be deleted. With one adapter, weight 1 and ``density: 1`` it is that adapter.

    Published, and the default: TIES on the factors A and B of the adapters themselves (``merge: factors``), each tensor
    trimmed by itself, and NPO of one number a batch, the mean over its answer tokens (``npo_over: batch``). A product
    of merged factors is not the merged product: ``merge: products`` (ours) merges what the adapters add to the weights.
    ``npo_over: sequences`` is NPO as its own paper has it.

    Attributes:
        npo, kl, nll: a, b, c >= 0 of each adapter.
        batch_sizes: forget records, and as many of D_r, of each adapter's steps.
        weights: of the merge, >= 0.
        density: in [0, 1].
        scope: what the density is of: ``each`` tensor, or ``all`` of an adapter's.
        merge, npo_over: see above.
        beta: of NPO, > 0.
        lora: of each adapter.
        fit: of each adapter; its ``batch_size`` plays no part. Published with paged 32-bit AdamW, texts of 256 tokens.
    """

    npo: tuple[float, ...] = (0.4, 0.3)
    kl: tuple[float, ...] = (0.4, 0.3)
    nll: tuple[float, ...] = (0.2, 0.4)
    batch_sizes: tuple[int, ...] = (4, 8)
    weights: tuple[float, ...] = (1.0, 1.0)
    density: float = 0.8
    scope: Scope = "each"
    merge: Literal["factors", "products"] = "factors"
    npo_over: Literal["batch", "sequences"] = "batch"
    beta: float = 0.1
    lora: LoraOptions = field(default_factory=lambda: LoraOptions(r=32, alpha=32.0, dropout=0.05))
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=5, lr=1e-4))

    name: ClassVar[str] = "zjuklab"
    paper: ClassVar[str] = "ZJUKLAB at SemEval-2025 task 4 (Xu et al. 2025, arXiv 2503.21088)"
    needs: ClassVar[Needs] = Needs(all_weights=True, tasks=("causal_lm",))

    def __post_init__(self) -> None:
        lists = (self.npo, self.kl, self.nll, self.batch_sizes, self.weights)
        checks = {
            "npo, kl, nll, batch_sizes and weights must have an entry for each adapter": len({*map(len, lists)}) == 1,
            "there must be one adapter at least": len(self.npo) > 0,
            "npo, kl, nll and weights must be >= 0": min((0.0, *self.npo, *self.kl, *self.nll, *self.weights)) >= 0,
            "batch_sizes must be >= 1": min((1, *self.batch_sizes)) >= 1,
            f"density must be in [0, 1], not {self.density}": 0 <= self.density <= 1,
            f"beta must be > 0, not {self.beta}": self.beta > 0,
        }
        if problems := unmet(checks) + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The original with the merged adapters in its weights."""
        check_job(self, job)
        model = job.copy_of_original()
        added: list[Adapter] = []
        for number in range(len(self.npo)):
            adapted = self._trained(job, number)
            added.append(_factors(adapted) if self.merge == "factors" else _products(adapted))
        if self.merge == "factors":  # each factor gets the root of a weight, so that their product gets the weight
            weights = [weight**0.5 for weight in self.weights]
            merged = ties(added, weights, density=self.density, scope=self.scope)
            adapted.load_state_dict(merged, strict=False)
            merged = _products(adapted)
        else:
            merged = ties(added, self.weights, density=self.density, scope=self.scope)
        with torch.no_grad():
            for name, product in merged.items():
                model.get_parameter(name).add_(product)
        job.trainer.log.event("merged", adapters=len(added), layers=len(merged))
        return model

    def _trained(self, job: UnlearningJob, number: int) -> nn.Module:
        """The original with an adapter of its own, trained; its other weights are not to be written to."""
        original, seed = job.reference.model, derive_seed(job.seed, self.name, number)
        if isinstance(original, CausalLM):
            model: nn.Module = original.adapted(self.lora, seed)
        else:
            model = job.copy_of_original()
            with scoped_seed(seed):
                add_lora(model, self.lora)
        teacher = job.reference.fresh()

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            npo = self._npo(job, model, teacher, batches["forget"])
            batch = batches["retain"]
            output = job.task.output(model, batch)
            kl = job.task.divergence(output, teacher.output(batch), batch).mean()
            nll = job.task.loss_of(output, batch)
            total = self.npo[number] * npo + self.kl[number] * kl + self.nll[number] * nll
            return Loss(total, {"npo": npo, "kl": kl, "nll": nll})

        fit = replace(self.fit, batch_size=self.batch_sizes[number])
        name, same = f"{self.name}-{number}", job.identity(self)
        job.trainer.fit(
            model, paired_plan(job, fit), objective, fit, seed=seed, name=name, identity=same, memory=teacher
        )
        return model

    def _npo(self, job: UnlearningJob, model: nn.Module, teacher: Reference, batch: Batch) -> Tensor:
        if self.npo_over == "sequences":
            return npo_loss(job.task.nll(model, batch), teacher.nll(batch), self.beta)
        now, before = token_mean(*job.task.token_nll(model, batch)), token_mean(*teacher.token_nll(batch))
        return npo_loss(now[None], before[None], self.beta)


def _factors(model: nn.Module) -> Adapter:
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


@torch.no_grad()
def _products(model: nn.Module) -> Adapter:
    """Name of each weight that has an adapter, in the model without it, to what the adapter adds."""
    lm, before = (model.lm, "lm.") if isinstance(model, CausalLM) else (model, "")
    return {f"{before}{name}.weight": layer.get_delta_weight(ADAPTER) for name, layer in lora_layers(lm)}
