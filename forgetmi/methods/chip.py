"""Training-free projection of weights off what is particular to the forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, MethodError, unmet
from forgetmi.methods.base import Needs, UnlearningJob, check_job
from forgetmi.parts.edits.layers import layers
from forgetmi.parts.edits.subspace import common_space, differential, most_affected, without_space
from forgetmi.parts.selection.alike import alike_batches
from forgetmi.training.modes import preserved_mode

Sums = dict[str, tuple[Tensor, Tensor, int]]
"""Layer to the sum of its outputs [D], of their magnitudes [D], and how many there were."""


@dataclass(frozen=True)
class CHIP:
    """Our reading of CHIP, cross-modal hierarchy-informed projection (Wu et al. 2025, MedForget, arXiv 2512.09867).

    No training. For each chosen linear layer, with a its output averaged over positions:

        S = the ``share`` of outputs with the largest mean |a| over D_f minus over D_r,
        d = unit( mean a_S over one node of D_f - mean a_S over its siblings in D_r ),  for every node,
        Q = the first singular vectors of all d that hold ``variance`` of them,
        W_S <- (I - Q Q^T) W_S.

    Nodes are the studies of the forgotten patients (for institutions: their patients), siblings the retain nodes of
    the same institution, or all of them where it has none.

    Our reading: the method was published for two large vision-language models and six of their blocks; here it takes
    the last ``layers`` linear layers before the output layer. A bias (theirs have none) is projected with its weights.
    Weighing picture and text positions within one layer is left out: our encoders keep modalities apart. Records are
    grouped so that no padding is averaged.

    Attributes:
        layers: number of linear layers, >= 1.
        share: in (0, 1]. Published: .1.
        variance: tau, in (0, 1]. Published: .95.
        nodes: ``patient`` or ``study``; ``None`` as above.
        batch_size: of the passes; changes speed and memory only.
    """

    layers: int = 6
    share: float = 0.1
    variance: float = 0.95
    nodes: Literal["patient", "study"] | None = None
    batch_size: int = 32

    name: ClassVar[str] = "chip"
    paper: ClassVar[str] = "our reading of CHIP (Wu et al. 2025, arXiv 2512.09867)"
    needs: ClassVar[Needs] = Needs(all_weights=True)

    def __post_init__(self) -> None:
        checks = {
            "layers must be >= 1": self.layers >= 1,
            "share must be in (0, 1]": 0 < self.share <= 1,
            "variance must be in (0, 1]": 0 < self.variance <= 1,
            "batch_size must be >= 1": self.batch_size >= 1,
        }
        if problems := unmet(checks):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The projected model."""
        check_job(self, job)
        model = job.copy_of_original()
        chosen = self._chosen(job, model)
        forget, retain = (self._sums(job, model, chosen, part) for part in ("forget", "retain"))
        ranks = {}
        for name, module in chosen.items():
            ranks[name] = self._project(module, name, forget, retain)
        job.trainer.log.event("projected", method=self.name, ranks=ranks)
        return model

    def _chosen(self, job: UnlearningJob, model: nn.Module) -> dict[str, nn.Module]:
        """The last linear layers before the output layer, by name."""
        found = layers(model, job.task, job.loader, job.partition.retain, device=job.trainer.device)[1:]
        named = {layer.weights[0].rpartition(".")[0]: layer for layer in found}
        modules = {name: model.get_submodule(name) for name in named}
        linear = [name for name, module in modules.items() if _rows(module) is not None]
        if not linear:
            raise MethodError("chip projects linear layers before the output layer, and none of them may change")
        return {name: modules[name] for name in linear[: self.layers]}

    def _sums(
        self, job: UnlearningJob, model: nn.Module, chosen: Mapping[str, nn.Module], part: str
    ) -> dict[tuple[str, ...], Sums]:
        """Node to its sums; a node begins with its institution."""
        members: dict[tuple[str, ...], list[int]] = {}
        by_study = self.nodes != "patient" and not (self.nodes is None and job.partition.level == "institution")
        for index in job.partition.indices(part):
            record = job.partition.dataset[index]
            node = (record.institution, record.patient_id, *((record.study_id,) if by_study else ()))
            members.setdefault(node, []).append(index)
        return {node: self._node(job, model, chosen, indices) for node, indices in members.items()}

    def _node(self, job: UnlearningJob, model: nn.Module, chosen: Mapping[str, nn.Module], indices: list[int]) -> Sums:
        sums: Sums = {}

        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                rows = output.detach().float()
                rows = rows.flatten(1, -2).mean(dim=1) if rows.ndim > 2 else rows
                total, magnitude, n = sums.get(name, (0.0, 0.0, 0))
                sums[name] = (total + rows.sum(dim=0), magnitude + rows.abs().sum(dim=0), n + len(rows))

            return hook

        handles = [module.register_forward_hook(note(name)) for name, module in chosen.items()]
        try:
            # Without the hooks' gradients: in grad mode torch's fused layers, which call no hook, are not taken.
            with preserved_mode(model), torch.enable_grad():
                model.eval()
                for batch in alike_batches(job.fit_loader(), indices, self.batch_size):
                    job.task.output(model, batch.to(job.trainer.device))
        finally:
            for handle in handles:
                handle.remove()
        return sums

    def _project(
        self,
        module: nn.Module,
        name: str,
        forget: Mapping[tuple[str, ...], Sums],
        retain: Mapping[tuple[str, ...], Sums],
    ) -> int:
        """Edit one layer; the number of directions taken out of it."""
        ours = {node: sums[name] for node, sums in forget.items() if name in sums}
        theirs = {node: sums[name] for node, sums in retain.items() if name in sums}
        rows = _rows(module)
        if not ours or not theirs or rows is None:
            return 0
        selected = most_affected(_mean(list(ours.values()), 1), _mean(list(theirs.values()), 1), self.share)
        directions = []
        for node, (total, _, n) in ours.items():
            same = [sums for other, sums in theirs.items() if other[0] == node[0]] or list(theirs.values())
            direction = differential((total / n)[selected], _mean(same, 0)[selected])
            directions += [] if direction is None else [direction]
        if not directions:
            return 0
        space = common_space(directions, self.variance)
        with torch.no_grad():
            rows[selected] = without_space(rows[selected], space.to(rows.device))
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter) and bias.requires_grad:
                bias[selected] = without_space(bias[selected], space.to(bias.device))
        return space.shape[1]


def _mean(sums: Sequence[tuple[Tensor, Tensor, int]], which: Literal[0, 1]) -> Tensor:
    """Over all nodes' outputs (0) or their magnitudes (1): [D]."""
    return torch.stack([one[which] for one in sums]).sum(dim=0) / sum(one[2] for one in sums)


def _rows(module: nn.Module) -> Tensor | None:
    """A view of a linear layer's weight with one row an output, or ``None`` for other layers."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2 or not weight.requires_grad:
        return None
    if isinstance(module, nn.Linear):
        return weight.detach()
    return weight.detach().T if getattr(module, "nf", None) == weight.shape[1] else None  # transformers' Conv1D
