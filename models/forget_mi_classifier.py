"""The published Forget-MI network as a model of batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.classifier import mean_of_present, on_present
from forgetmi.models.forget_mi_reference import (
    IMAGE_DIM,
    ForgetMINetwork,
    build_forget_mi_network,
    load_forget_mi_checkpoint,
)
from forgetmi.models.output import ModelOutput

Scored = Literal["image", "text", "mean"]


@dataclass(frozen=True)
class ForgetMIClassifierConfig:
    """Settings of a :class:`ForgetMIReferenceClassifier`.

    Attributes:
        network: settings of :class:`ForgetMIConfig`; nothing means the published size.
        logits: whose logits are the model's: the image branch's (as in the published evaluation), the text branch's,
            or the mean of those that are present.
        image, text: names of the modalities.
        checkpoint: a folder to load with :func:`load_forget_mi_checkpoint`; ``network`` is then left out.
    """

    network: dict[str, Any] = field(default_factory=dict)
    logits: Scored = "image"
    image: str = "image"
    text: str = "text"
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.image == self.text:
            problems.append(f"image and text are both named {self.image!r}")
        if self.checkpoint is not None and self.network:
            problems.append("network: leave it out, the checkpoint's config.json gives the sizes")
        if problems:
            raise ConfigError(problems)


class ForgetMIReferenceClassifier(nn.Module):
    """The published network, batch in and :class:`ModelOutput` out; nothing is fused, so ``joint`` is ``None``.

    A record without the modality that ``logits`` names gets zero logits: equal probabilities.

    Args:
        network: the network.
        logits: see :class:`ForgetMIClassifierConfig`.
        image, text: names of the modalities. The text may hold ``token_type_ids``.
    """

    kind = "forget_mi_reference"

    def __init__(
        self, network: ForgetMINetwork, *, logits: Scored = "image", image: str = "image", text: str = "text"
    ) -> None:
        super().__init__()
        self.network, self.scored, self.image, self.text = network, logits, image, text
        self.n_outputs = network.config.num_labels

    def forward(self, batch: Batch) -> ModelOutput:
        """The model's output for a batch.

        Raises:
            ModelError: the batch lacks one of the modalities, or the images have not the published size.
        """
        if absent := [name for name in (self.image, self.text) if name not in batch.inputs]:
            raise ModelError(f"the batch has no input for {', '.join(absent)}")
        present = {name: batch.present[name] for name in (self.image, self.text)}
        width = self.network.config.hidden_size
        image, image_logits = on_present(
            self.network.img_model, batch.inputs[self.image], present[self.image], (IMAGE_DIM, self.n_outputs)
        )
        text, text_logits = on_present(
            self._text_branch, batch.inputs[self.text], present[self.text], (width, self.n_outputs)
        )
        by_name = {self.image: image_logits, self.text: text_logits}
        if self.scored == "mean":
            logits = mean_of_present(by_name, present)
        else:
            logits = image_logits if self.scored == "image" else text_logits
        return ModelOutput(logits, {self.image: image, self.text: text}, None, by_name, present)

    def _text_branch(self, text: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.network.text_model(text["input_ids"], text["attention_mask"], text.get("token_type_ids"))

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings that rebuild the architecture with no outside file."""
        return {
            "network": asdict(self.network.config),
            "logits": self.scored,
            "image": self.image,
            "text": self.text,
        }


def build_forget_mi_classifier(config: Mapping[str, Any], seed: int) -> ForgetMIReferenceClassifier:
    """The classifier from a mapping of :class:`ForgetMIClassifierConfig`'s settings.

    Weights are the checkpoint's, or drawn from the seed; torch's global RNG is as it was afterwards.

    Raises:
        ConfigError: a setting is unknown or out of range.
        ModelError: the checkpoint cannot be read.
    """
    from forgetmi.options import build_options

    settings = build_options(ForgetMIClassifierConfig, config, where="model")
    if settings.checkpoint is not None:
        network = load_forget_mi_checkpoint(settings.checkpoint)
    else:
        network = build_forget_mi_network(settings.network, seed)
    return ForgetMIReferenceClassifier(network, logits=settings.logits, image=settings.image, text=settings.text)
