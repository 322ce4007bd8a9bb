"""Where synthetic records live: as inputs, as fused embeddings or as one embedding a modality; and plans that mix them
with real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import MethodError
from forgetmi.modalities.base import Inputs
from forgetmi.models.gan import SMALLEST_SIDE
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.base import Task
from forgetmi.training.modes import scoring
from forgetmi.training.plans import Plan, Step
from forgetmi.training.reference import Reference

SpaceName = Literal["auto", "inputs", "joint", "unimodal"]
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Rows:
    """The rows of some real records in a space.

    Attributes:
        values: [N, *shape], on the CPU.
        conditions: [N, M]: which modalities each has, in spaces where a row may lack some; else M = 0.
        left_out: how many of the records have nothing in this space.
    """

    values: Tensor
    conditions: Tensor
    left_out: int

    def __len__(self) -> int:
        return len(self.values)


class Space(Protocol):
    """How a record is a row of numbers, and what a model says of such a row."""

    name: str

    def rows(self, loader: Loader, indices: Sequence[int]) -> Rows:
        """The rows of real records, as the frozen original sees them."""
        ...

    def masked(self, rows: Tensor, conditions: Tensor) -> Tensor:
        """Rows with zeros where the conditions say that there is nothing."""
        ...

    def output(self, model: nn.Module, rows: Tensor, conditions: Tensor) -> ModelOutput:
        """What a model says of rows, on its device."""
        ...

    def loss(self, task: Task, output: ModelOutput, batch: Batch) -> Tensor:
        """The loss that such rows are trained with, a scalar."""
        ...


class InputSpace:
    """Rows are one modality's inputs; a synthetic record lacks the others.

    Args:
        loader: knows the modalities.
        modality: which one; its batches are images [B, C, H, W] or vectors [B, F].
    """

    name = "inputs"

    def __init__(self, loader: Loader, modality: str) -> None:
        self.modalities, self.modality = loader.modalities, modality

    def rows(self, loader: Loader, indices: Sequence[int]) -> Rows:
        """The prepared inputs of the records that have the modality."""
        having = [i for i in indices if loader.record(i).modalities.get(self.modality) is not None]
        parts = [cast(Tensor, batch.inputs[self.modality]) for batch in loader.batches(having, 256)]
        values = torch.cat(parts) if parts else torch.empty(0)
        return Rows(values, torch.empty(len(having), 0), len(indices) - len(having))

    def masked(self, rows: Tensor, conditions: Tensor) -> Tensor:
        """As they are."""
        return rows

    def output(self, model: nn.Module, rows: Tensor, conditions: Tensor) -> ModelOutput:
        """The model's output for records that have this modality only."""
        inputs: dict[str, Inputs] = {
            name: kind.collate([kind.blank()] * len(rows)) for name, kind in self.modalities.items()
        }
        inputs[self.modality] = rows
        there = {name: torch.full((len(rows),), name == self.modality) for name in self.modalities}
        batch = Batch(inputs, there, None, torch.arange(len(rows)))
        output: ModelOutput = model(batch.to(rows.device))
        return output

    def loss(self, task: Task, output: ModelOutput, batch: Batch) -> Tensor:
        """The task's training loss."""
        return task.loss_of(output, batch)


class JointSpace:
    """Rows are the original's fused embeddings; what is trained on them is the head that reads them.

    Args:
        reference: the frozen original.
    """

    name = "joint"

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def rows(self, loader: Loader, indices: Sequence[int]) -> Rows:
        """[N, D], of every record: one without any modality has an embedding too."""
        outputs = [self.reference.output(batch.to(self.reference.device)) for batch in loader.batches(indices, 64)]
        values = torch.cat([cast(Tensor, output.joint).float().cpu() for output in outputs])
        return Rows(values, torch.empty(len(indices), 0), 0)

    def masked(self, rows: Tensor, conditions: Tensor) -> Tensor:
        """As they are."""
        return rows

    def output(self, model: nn.Module, rows: Tensor, conditions: Tensor) -> ModelOutput:
        """Logits only."""
        return ModelOutput(model.read(rows))  # type: ignore[operator]  # choose_space has looked

    def loss(self, task: Task, output: ModelOutput, batch: Batch) -> Tensor:
        """The mean negative log-likelihood: a fused embedding has no modality's head that a loss could ask for."""
        return task.nll_of(output, batch).mean()


class UnimodalSpace:
    """Rows are the original's embeddings of every modality, one after another, with the mask of those that are there;
    what is trained on them is what comes after the encoders.

    Args:
        reference: the frozen original.
        widths: modality name to width.
    """

    name = "unimodal"

    def __init__(self, reference: Reference, widths: dict[str, int]) -> None:
        self.reference, self.widths = reference, widths

    def rows(self, loader: Loader, indices: Sequence[int]) -> Rows:
        """[N, sum of widths], zero where a modality is missing; records without any are left out."""
        values, masks = [], []
        for batch in loader.batches(indices, 64):
            output = self.reference.output(batch.to(self.reference.device))
            values.append(torch.cat([output.unimodal[name] for name in self.widths], dim=1).float().cpu())
            masks.append(torch.stack([output.present[name] for name in self.widths], dim=1).float().cpu())
        some = (mask := torch.cat(masks)).any(dim=1)
        return Rows(torch.cat(values)[some], mask[some], int((~some).sum()))

    def masked(self, rows: Tensor, conditions: Tensor) -> Tensor:
        """Zeros in the embeddings of missing modalities."""
        widths = torch.tensor(list(self.widths.values()), device=conditions.device)
        return rows * conditions.repeat_interleave(widths, dim=1)

    def output(self, model: nn.Module, rows: Tensor, conditions: Tensor) -> ModelOutput:
        """The model's output from these embeddings on."""
        present = {name: conditions[:, k] > 0.5 for k, name in enumerate(self.widths)}
        parts = self.masked(rows, conditions).split(list(self.widths.values()), dim=1)
        output: ModelOutput = model.fuse(dict(zip(self.widths, parts, strict=True)), present)  # type: ignore[operator]
        return output

    def loss(self, task: Task, output: ModelOutput, batch: Batch) -> Tensor:
        """The task's training loss."""
        return task.loss_of(output, batch)


def choose_space(
    name: SpaceName, modality: str | None, loader: Loader, reference: Reference, indices: Sequence[int]
) -> Space:
    """The space of this name, or (``auto``) ``inputs`` for models of one modality that has a generator, else ``joint``
    where the model fuses, else ``unimodal``.

    Args:
        name: see above.
        modality: of ``inputs``; may be left out where one alone has a generator.
        loader, reference: the records and the frozen original.
        indices: some records, that are looked at.

    Raises:
        MethodError: the model or the records do not offer it.
    """
    batch = loader.batch(indices[:2]).to(reference.device)
    suited = [key for key, value in batch.inputs.items() if isinstance(value, Tensor) and _has_generator(value)]
    output = reference.output(batch)
    splits = callable(getattr(reference.model, "fuse", None))
    if name == "auto":
        if modality is not None or (len(batch.inputs) == 1 and suited):
            name = "inputs"
        else:
            name = "joint" if splits and output.joint is not None else "unimodal"
    if name == "inputs":
        chosen = suited if modality is None else [modality]
        if len(chosen) != 1 or chosen[0] not in suited:
            raise MethodError(
                f"synthetic inputs need one modality of images or vectors, and {len(suited)} suit "
                f"({', '.join(suited) or 'none'})",
                fix="name one of them with modality, or choose space: joint or unimodal",
            )
        return InputSpace(loader, chosen[0])
    if not splits or (name == "joint" and output.joint is None):
        raise MethodError(
            f"space: {name} needs a model whose part behind its {'fusion' if name == 'joint' else 'encoders'} can be "
            f"run alone; a {type(reference.model).__name__} like this one cannot",
            fix="choose another space, or build the model with a fusion",
        )
    if name == "joint":
        return JointSpace(reference)
    return UnimodalSpace(reference, {key: value.shape[1] for key, value in output.unimodal.items()})


def _has_generator(value: Tensor) -> bool:
    images = value.ndim == 4 and min(value.shape[2:]) >= SMALLEST_SIDE
    return value.is_floating_point() and (images or value.ndim == 2)


def scale_of(space: Space, rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each number of a row, over the records that have it; 0 and 1 for images, whose
    range is known, and 1 where nothing varies.
    """
    values = rows.values.double()
    if values.ndim != 2:
        return torch.zeros(()), torch.ones(())
    there = space.masked(torch.ones_like(values), rows.conditions.double())
    count = there.sum(dim=0).clamp(min=1)
    mean = (values * there).sum(dim=0) / count
    sd = (((values - mean) * there).square().sum(dim=0) / count).sqrt()
    return mean.float(), torch.where(sd > 1e-6, sd, 1.0).float()


@dataclass(frozen=True)
class Synthetic:
    """Synthetic records and the labels that they are trained with.

    Attributes:
        rows: [N, *shape].
        conditions: [N, M].
        labels: [N], or (multilabel) [N, L].
    """

    rows: Tensor
    conditions: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: Sequence[int]) -> Batch:
        """Some of them."""
        chosen = torch.tensor(list(places), dtype=torch.long)
        inputs: dict[str, Inputs] = {"rows": self.rows[chosen], "conditions": self.conditions[chosen]}
        return Batch(inputs, {}, self.labels[chosen], chosen)


def joined(parts: Sequence[Synthetic]) -> Synthetic | None:
    """Several sets as one; ``None`` where there is nothing."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    return Synthetic(
        torch.cat([part.rows for part in parts]),
        torch.cat([part.conditions for part in parts]),
        torch.cat([part.labels for part in parts]),
    )


def answers(space: Space, reference: Reference, rows: Tensor, conditions: Tensor) -> Tensor:
    """What the frozen original says of synthetic rows: logits [N, C], on the CPU."""
    parts = []
    with scoring(reference.model):
        for k in range(0, len(rows), 256):
            some = (part[k : k + 256].to(reference.device) for part in (rows, conditions))
            parts.append(space.output(reference.model, *some).logits.float().cpu())
    # Tensors made in inference mode cannot enter autograd.
    return torch.cat(parts).clone()


class MixedPlan:
    """A plan of one stream over real records and, from a position on, synthetic ones.

    A step's positions stay together until they are loaded, so that pieces of a step are pieces of both kinds.

    Args:
        plan: which positions each step sees.
        synthetic: the synthetic records.
        first: the position of the first of them; all real ones are smaller.
    """

    def __init__(self, plan: Plan, synthetic: Synthetic, first: int) -> None:
        self.plan, self.synthetic, self.first = plan, synthetic, first

    def steps(self, epoch: int) -> list[Step]:
        """The plan's."""
        return self.plan.steps(epoch)

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The plan's batch of the real records and one of the synthetic ones; either may not be there."""
        ((stream, positions),) = step.items()
        real = tuple(i for i in positions if i < self.first)
        made = [i - self.first for i in positions if i >= self.first]
        batches = self.plan.load({stream: real}, epoch) if real else {}
        return {**batches, SYNTHETIC: self.synthetic.batch(made)} if made else batches


def nearest(rows: Tensor, others: Tensor, *, same: bool = False) -> Tensor:
    """[N]: root mean square difference, over the numbers of a row, to the nearest of the others.

    Args:
        rows: [N, *shape].
        others: [K, *shape].
        same: both are the same records: each looks at all but itself (infinite where it is alone).
    """
    a, b = rows.flatten(1).double(), others.flatten(1).double()
    found = []
    for k in range(0, len(a), 1024):
        distances = torch.cdist(a[k : k + 1024], b, compute_mode="donot_use_mm_for_euclid_dist")
        if same:
            own = torch.arange(k, k + len(distances))
            distances[torch.arange(len(distances)), own] = torch.inf
        found.append(distances.min(dim=1).values)
    return torch.cat(found) / a.shape[1] ** 0.5
