"""What frozen encoders say of records, computed once, and the models' heads that are trained on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from forgetmi.batch import Batch, Loader
from forgetmi.errors import TrainingError
from forgetmi.modalities.base import Inputs
from forgetmi.models.classifier import MultimodalClassifier, on_present
from forgetmi.models.weights import state_sha256
from forgetmi.training.modes import preserved_mode, set_fit_mode
from forgetmi.training.options import FitOptions
from forgetmi.training.seeds import scoped_seed


class KeptFeatures(nn.Module):
    """Stands for a frozen encoder whose embeddings are kept: gives them back as they are.

    Args:
        dim: their width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        """[B, dim], as given."""
        return features


class FeatureLoader(Loader):
    """Batches whose inputs are what frozen encoders say of the records, computed once.

    Args:
        loader: makes the records' batches.
        model: whose encoders; they must say the same in training and in scoring.
        indices: positions of the records that will be asked for.
        recipe: how the model is to be trained.
        device: where the encoders run, and the features stay.
        batch_size: changes speed and memory only.

    Raises:
        TrainingError: an encoder says something else while it is trained (dropout, batch statistics).
    """

    def __init__(
        self,
        loader: Loader,
        model: MultimodalClassifier,
        indices: Sequence[int],
        *,
        recipe: FitOptions,
        device: torch.device,
        batch_size: int = 64,
    ) -> None:
        super().__init__(loader.dataset, {}, cache=False)
        self._overrides = loader._overrides
        self.device = device
        positions = sorted(set(indices))
        self._row = torch.full((len(loader.dataset),), -1, dtype=torch.long)
        self._row[positions] = torch.arange(len(positions))
        self._row = self._row.to(device)
        found: dict[str, list[Tensor]] = {name: [] for name in model.names}
        there: dict[str, list[Tensor]] = {name: [] for name in model.names}
        model.to(device)
        with preserved_mode(model), torch.no_grad():
            for number, batch in enumerate(loader.batches(positions, batch_size)):
                moved = batch.to(device)
                model.eval()
                features = _embeddings(model, moved)
                if number == 0:
                    set_fit_mode(model, recipe.mode)
                    with scoped_seed(0, device):
                        again = _embeddings(model, moved)
                    for name in model.names:
                        if not torch.allclose(features[name], again[name], rtol=1e-4, atol=1e-5):
                            raise TrainingError(
                                f"the encoder of {name} says something else in training than in scoring: its output "
                                "cannot be kept (dropout, or statistics of the batch)",
                                fix="set its dropout to 0, or training.mode: eval; or choose another executor",
                            )
                for name in model.names:
                    found[name].append(features[name])
                    there[name].append(moved.present[name])
        self.features = {name: torch.cat(parts) for name, parts in found.items()}
        self.masks = {name: torch.cat(parts) for name, parts in there.items()}
        labels = loader.labels(positions)
        self._labels = None if labels is None else labels.to(device)

    def take(self, indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Features [..., dim] and masks [...] by modality, and labels [...] or [..., L], of positions [...]."""
        rows = self._row[indices]
        if self._labels is None or bool((rows < 0).any()):
            raise TrainingError("records were asked for whose features, or labels, are not kept")
        return (
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.masks.items()},
            self._labels[rows],
        )

    def has(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Whether the records at positions [...] have a modality, on the host [...]."""
        return self.masks[modality].cpu().numpy()[self._row.cpu().numpy()[indices]]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The records' features as a batch, for the heads of :func:`head_of`."""
        positions = torch.as_tensor(list(indices), dtype=torch.long)
        features, present, labels = self.take(positions.to(self.device))
        return Batch(dict(features), present, labels, positions)


def _embeddings(model: MultimodalClassifier, batch: Batch) -> dict[str, Tensor]:
    """What the encoders say [B, dim], by modality; zero where a record lacks it."""
    found = {}
    for name in model.names:
        encoder = model.encoders[name]

        def embed(rows: Inputs, encoder: nn.Module = encoder) -> tuple[Tensor, ...]:
            return (encoder(rows),)

        widths = (cast(int, encoder.dim),)
        (found[name],) = on_present(embed, batch.inputs[name], batch.present[name], widths)
    return found


def head_of(model: MultimodalClassifier) -> MultimodalClassifier:
    """A copy of the model without its encoders: it takes a :class:`FeatureLoader`'s batches."""
    kept = nn.ModuleDict({name: KeptFeatures(cast(int, encoder.dim)) for name, encoder in model.encoders.items()})
    return copy.deepcopy(model, {id(model.encoders): kept})


def put_back(head: MultimodalClassifier, model: MultimodalClassifier) -> None:
    """Give a whole model the weights of a head."""
    model.load_state_dict({**model.state_dict(), **head.state_dict()})


def same_encoders(model: MultimodalClassifier, other: MultimodalClassifier) -> None:
    """Raise :class:`TrainingError` unless the encoders of two models have the same weights."""
    if state_sha256(model.encoders.state_dict()) != state_sha256(other.encoders.state_dict()):
        raise TrainingError(
            "the frozen encoders of these models differ: their weights are drawn, not read",
            fix="give each encoder pretrained weights, or choose another executor",
        )
