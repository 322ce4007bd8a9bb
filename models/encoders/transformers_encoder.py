"""Any text encoder of transformers, from a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.encoders.small_transformer import masked_mean


@dataclass(frozen=True)
class TransformersOptions:
    """Options of :class:`TransformersEncoder`; exactly one of ``path`` and ``config`` is given.

    Attributes:
        path: a local folder with ``config.json`` and weights.
        config: the content of such a ``config.json``: the architecture with random weights.
        pooled: ``"cls"``, the first token's state, or ``"mean"`` over the tokens that are there.
    """

    path: Path | None = None
    config: dict[str, Any] | None = None
    pooled: Literal["cls", "mean"] = "mean"

    def __post_init__(self) -> None:
        problems = []
        if (self.path is None) == (self.config is None):
            problems.append("give exactly one of path (a local folder) and config (random weights)")
        if self.path is not None and not (self.path / "config.json").is_file():
            problems.append(f"path: there is no config.json in {self.path}")
        if self.config is not None and "model_type" not in self.config:
            problems.append("config: 'model_type' is required, for instance 'bert'")
        if problems:
            raise ConfigError(problems)


class TransformersEncoder(nn.Module):
    """The last hidden states of a transformers encoder, pooled.

    Input: ``{"input_ids": [B, T], "attention_mask": [B, T]}``. Output: [B, D] with D the model's hidden size.
    """

    Options = TransformersOptions

    def __init__(self, options: TransformersOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = _create(options)
        self.dim: int = self.backbone.config.hidden_size

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        """Embeddings [B, D]."""
        mask = text["attention_mask"]
        states = self.backbone(input_ids=text["input_ids"], attention_mask=mask).last_hidden_state
        return states[:, 0] if self.options.pooled == "cls" else masked_mean(states, mask.bool())

    def to_config(self) -> dict[str, Any]:
        """The architecture, without the folder that the weights came from."""
        config = {key: value for key, value in self.backbone.config.to_dict().items() if key != "_name_or_path"}
        return {"name": "transformers", "config": config, "pooled": self.options.pooled}


def _create(options: TransformersOptions) -> Any:
    from transformers import AutoConfig, AutoModel

    missing: list[str] = []
    try:
        if options.path is not None:
            model, found = AutoModel.from_pretrained(
                options.path, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            # The pooler is not used here, and masked-language-model checkpoints have none.
            missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
        else:
            settings = dict(options.config or {})
            model = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError, ...
        raise ModelError(
            f"transformers cannot build the text encoder: {type(error).__name__}: {error}",
            where=None if options.path is None else str(options.path),
            expected="a folder with config.json and model.safetensors (or pytorch_model.bin of tensors only)",
            fix="check that the folder is complete; nothing is downloaded",
        ) from error
    if missing:
        raise ModelError(
            f"the text encoder's weights lack {len(missing)} keys, which would stay random: {', '.join(missing)}",
            where=str(options.path),
            fix="use the folder of a complete checkpoint of this model",
        )
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{model.config.model_type!r} is an encoder and a decoder in one",
            expected="an encoder, such as BERT, RoBERTa, DistilBERT or MiniLM",
        )
    # `from_pretrained` leaves a model in eval mode; a freshly built module is in training mode, like all others.
    return model.train()
