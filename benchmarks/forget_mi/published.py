"""What an epoch of the published Forget-MI code computes, in our own words, with each of our savings as a switch.

Forget-MI is MICCAI 2025, arXiv 2506.23145. Its training loop, for each batch of forget records, of their noisy copies
and of retain records, all texts padded to 320 tokens:

* six passes: the frozen original and the model being unlearned each see all three batches, both in train mode. The
  original's parameters ask for no gradient, so its passes keep no graph, although nothing switches gradients off;
* of the six, two enter no loss: the model's on noisy records (its graph is kept all the same) and the original's on
  clean forget records;
* a new random gate for each joint embedding, in train mode, with one norm over the whole batch;
* distances of unimodal and of joint embeddings, one backward pass a batch, one optimiser step an epoch.

Left out, in the published code's favour: reading DICOM files and the split's table for each record, random crops, the
third model that it keeps in memory, its cosine similarity over the retain set after each epoch, and its hinge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .data import MAX_TOKENS

EPS = 1e-8  # the published root has none, and its gradient at equal embeddings is NaN
NOISE_SD = 0.1
Join = Callable[[Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]
"""Images [B, 1, H, W], token ids [B, T] and attention mask [B, T]."""


@dataclass(frozen=True)
class Savings:
    """What is done otherwise than in the published step; nothing, by default.

    Attributes:
        teacher_frozen: the original in eval mode, without gradients.
        needed_passes: the two passes that enter no loss are left out.
        student_eval: no dropout in the model being unlearned, BatchNorm with its running statistics.
        short_padding: texts padded to the batch's longest.
        packed: texts share rows (:func:`forgetmi.models.packing.pack_texts`); a switch of the network.
        float_noise: image noise drawn in float32.
    """

    teacher_frozen: bool = False
    needed_passes: bool = False
    student_eval: bool = False
    short_padding: bool = False
    packed: bool = False
    float_noise: bool = False


@dataclass(frozen=True)
class Weights:
    """Of the four losses; the published defaults 1, 1, 2, 2 as the published code rounds them."""

    unimodal_forget: float = 0.17
    unimodal_retain: float = 0.17
    joint_forget: float = 0.33
    joint_retain: float = 0.33


class PublishedGate(nn.Module):
    """The gate as published: see :class:`forgetmi.parts.gate.AdaptationGate` for the formula and what is wrong here."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(image_dim + text_dim, 1)
        self.shift = nn.Linear(image_dim + text_dim, image_dim)
        self.beta = nn.Parameter(torch.randn(1))
        self.norm, self.dropout = nn.LayerNorm(image_dim), nn.Dropout(0.1)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Joint embeddings [B, image_dim]; a record's depends on the others in the batch."""
        gate = torch.sigmoid(self.weigh(torch.cat([image, text], dim=1)))
        shift = self.shift(torch.cat([image, gate * text], dim=1))
        scale = (self.beta * image.norm() / shift.norm()).clamp(max=1.0)
        return self.dropout(self.norm(image + scale * shift))


@dataclass(frozen=True)
class PublishedData:
    """Records as the published data set holds them: pixels, and token ids made once.

    Attributes:
        pixels: uint8 [H, W] of each record.
        tokens, noisy_tokens: token ids of each record's text, and of its noisy text.
    """

    pixels: Sequence[NDArray[np.uint8]]
    tokens: Sequence[Sequence[int]]
    noisy_tokens: Sequence[Sequence[int]]

    def batch(self, records: Sequence[int], savings: Savings, *, noisy: bool = False) -> Inputs:
        """The records' inputs, made anew each time."""
        texts = [(self.noisy_tokens if noisy else self.tokens)[i][:MAX_TOKENS] for i in records]
        length = max(map(len, texts)) if savings.short_padding else MAX_TOKENS
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        return torch.stack([self._image(i, noisy, savings) for i in records]), ids, mask

    def _image(self, record: int, noisy: bool, savings: Savings) -> Tensor:
        image = self.pixels[record].astype(np.float32)
        image = image / image.max()
        if noisy and savings.float_noise:
            tensor = torch.from_numpy(image)
            return torch.empty_like(tensor).normal_(0.0, NOISE_SD).add_(tensor).clamp_(0.0, 1.0)[None]
        if noisy:
            drawn = np.random.normal(0.0, NOISE_SD, image.shape)  # noqa: NPY002 - as published, a benchmark only
            image = np.clip(image + drawn, 0.0, 1.0).astype(np.float32)
        return torch.from_numpy(image)[None]


def published_loss(
    student: nn.Module,
    teacher: nn.Module,
    batches: Mapping[str, Inputs],
    savings: Savings,
    new_gate: Callable[[int, int], Join],
    weights: Weights | None = None,
) -> Tensor:
    """The loss of one batch.

    Args:
        student, teacher: called with images, token ids, attention mask and segments; the first and third output are
            the embeddings.
        batches: ``retain``, ``noisy`` and ``forget``.
        savings: which passes are made.
        new_gate: makes a gate from both embeddings' widths: one for each joint embedding.
        weights: of the four losses.
    """

    def embeddings(network: nn.Module, stream: str) -> tuple[Tensor, Tensor]:
        image, ids, mask = batches[stream]
        outputs = network(image, ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
        return outputs[0], outputs[2]

    def joint(pair: tuple[Tensor, Tensor]) -> Tensor:
        return new_gate(pair[0].shape[1], pair[1].shape[1])(*pair)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().sum(dim=1) + EPS).sqrt().mean()

    unused = []
    with torch.no_grad() if savings.teacher_frozen else nullcontext():
        teacher_retain = embeddings(teacher, "retain")
    student_retain = embeddings(student, "retain")
    with torch.no_grad() if savings.teacher_frozen else nullcontext():
        teacher_noisy = embeddings(teacher, "noisy")
    if not savings.needed_passes:
        unused.append(embeddings(student, "noisy"))  # held until the loss is there, as the published loop holds it
        with torch.no_grad() if savings.teacher_frozen else nullcontext():
            unused.append(embeddings(teacher, "forget"))
    student_forget = embeddings(student, "forget")

    w = weights or Weights()
    unimodal_forget = distance(torch.cat(student_forget, dim=1), torch.cat(teacher_noisy, dim=1))
    unimodal_retain = distance(torch.cat(student_retain, dim=1), torch.cat(teacher_retain, dim=1))
    joint_forget = distance(joint(student_forget), joint(teacher_noisy))
    joint_retain = distance(joint(student_retain), joint(teacher_retain))
    return (
        w.unimodal_forget * unimodal_forget
        + w.unimodal_retain * unimodal_retain
        + w.joint_forget * joint_forget
        + w.joint_retain * joint_retain
    )


def published_epoch(
    student: nn.Module,
    teacher: nn.Module,
    data: PublishedData,
    steps: Sequence[tuple[Sequence[int], Sequence[int]]],
    savings: Savings,
    optimizer: torch.optim.Optimizer,
    new_gate: Callable[[int, int], Join],
    device: torch.device,
) -> float:
    """One epoch over (forget records, retain records); the mean loss."""
    student.train(not savings.student_eval)
    teacher.train(not savings.teacher_frozen)
    total = 0.0
    for forget, retain in steps:
        batches = {
            "retain": data.batch(retain, savings),
            "noisy": data.batch(forget, savings, noisy=True),
            "forget": data.batch(forget, savings),
        }
        moved = {name: _moved(inputs, device) for name, inputs in batches.items()}
        loss = published_loss(student, teacher, moved, savings, new_gate)
        loss.backward()
        total += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    return total / len(steps)


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    image, ids, mask = inputs
    return image.to(device), ids.to(device), mask.to(device)
