"""The published Forget-MI image+text network, so that the authors' checkpoints load unchanged.

Forget-MI (MICCAI 2025, arXiv 2506.23145) unlearns the joint image-text model of Chauhan et al. 2020 ("Joint Modeling
of Chest Radiographs and Radiology Reports for Pulmonary Edema Assessment"): a residual network for the film, BERT for
the report, a linear classifier on each. This is our own rebuild; names of modules follow the checkpoints' keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.packing import pack_texts
from forgetmi.models.weights import check_keys, read_state_dict

STEM_WIDTH = 8
WIDTHS = (8, 16, 32, 64, 128, 192, 192)
IMAGE_DIM = 768

# Buffers that older releases of transformers stored and that hold nothing but 0, 1, 2, ... or zeros.
HARMLESS = ("text_model.bert.embeddings.position_ids", "text_model.bert.embeddings.token_type_ids")


@dataclass(frozen=True)
class ForgetMIConfig:
    """Size of the published network; the defaults are the authors' (SciBERT's vocabulary, four severities).

    Attributes:
        num_labels: classes of both classifiers.
        vocab_size ... pad_token_id: BERT's, as in its ``config.json``.
    """

    num_labels: int = 4
    vocab_size: int = 31090
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        sizes = ("num_labels", "vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings")
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}" for name in sizes if getattr(self, name) < 1
        ]
        if not problems and self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if problems:
            raise ConfigError(problems)


class ForgetMINetwork(nn.Module):
    """Image and text branch, each an embedding and a classifier; nothing is fused inside.

    The ``classifier`` that the checkpoints hold beside the two branches is part of the published network, but none of
    its outputs: it is kept for the keys' sake and never called.

    Args:
        config: sizes.
    """

    def __init__(self, config: ForgetMIConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = ForgetMIText(config)
        self.img_model = ForgetMIImage(config.num_labels)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        image: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four published outputs, in their order.

        Args:
            image: [B, 1, H, W] in [0, 1]; H and W from 1537 to 2560 (published: 2048).
            input_ids: [B, T] token ids.
            attention_mask: [B, T], 1 where there is a token; all ones where ``None``.
            token_type_ids: [B, T]; zeros where ``None``.

        Returns:
            Image embedding [B, 768], image logits [B, C], text embedding [B, hidden_size], text logits [B, C].

        Raises:
            ModelError: the image does not give 768 features.
        """
        return *self.img_model(image), *self.text_model(input_ids, attention_mask, token_type_ids)


class ForgetMIImage(nn.Module):
    """The film's branch: a 7x7 convolution of stride 4, seven stages of two blocks, 2x2 average pooling, a classifier.

    Each stage halves the resolution, so 2048 pixels end as 4x4, are pooled to 2x2 and flattened: 4 x 192 = 768.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, STEM_WIDTH, 7, stride=4, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        width = STEM_WIDTH
        for stage, wider in enumerate(WIDTHS, start=1):
            self.add_module(f"layer{stage}", nn.Sequential(_Block(width, wider, 2), _Block(wider, wider, 1)))
            width = wider
        self.fc1 = nn.Linear(IMAGE_DIM, num_labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding [B, 768] and logits [B, C] of images [B, 1, H, W]."""
        if image.ndim != 4 or image.shape[1] != 1:
            raise ModelError(
                f"the Forget-MI network was given images of shape {list(image.shape)}", expected="[B, 1, H, W]"
            )
        states = torch.relu(self.bn1(self.conv1(image)))
        for stage in range(1, len(WIDTHS) + 1):
            states = self.get_submodule(f"layer{stage}")(states)
        if not all(size in (4, 5) for size in states.shape[2:]):
            raise ModelError(
                f"an image of {image.shape[2]}x{image.shape[3]} pixels does not give the network's 768 features",
                expected="height and width from 1537 to 2560 pixels; the published size is 2048",
                fix="set the image modality's size to 2048",
            )
        embedding = nn.functional.avg_pool2d(states, 2).flatten(1)
        return embedding, self.fc1(embedding)


class _Block(nn.Module):
    def __init__(self, width: int, wider: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.downsample: nn.Module | None = None
        if stride != 1 or width != wider:
            self.downsample = nn.Sequential(
                nn.Conv2d(width, wider, 1, stride=stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + (x if self.downsample is None else self.downsample(x)))


class ForgetMIText(nn.Module):
    """The report's branch: BERT's pooled first token, dropout, a classifier; the embedding comes after the dropout.

    Attributes:
        packed: leave padding out (:func:`~forgetmi.models.packing.pack_texts`): reports differ so much in length that
            it is half of a batch. Outputs are the same, up to rounding.
    """

    packed: bool = True

    def __init__(self, config: ForgetMIConfig) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {name: value for name, value in asdict(config).items() if name != "num_labels"}
        self.bert = BertModel(BertConfig(**sizes))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embedding [B, hidden_size] and logits [B, C] of token ids [B, T]."""
        embedding = self.dropout(self._pooled(input_ids, attention_mask, token_type_ids))
        return embedding, self.classifier(embedding)

    def _pooled(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        """[B, hidden_size]."""
        # Only this attention takes a mask of texts that share a row.
        can = self.packed and self.bert.config._attn_implementation == "sdpa"
        packing = pack_texts(mask) if mask is not None and can else None
        if packing is None:
            return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).pooler_output
        states = self.bert(
            input_ids=packing.take(ids),
            attention_mask=packing.attention,
            token_type_ids=None if types is None else packing.take(types),
            position_ids=packing.positions,
        ).last_hidden_state
        pooler = self.bert.pooler
        assert pooler is not None  # BertModel has one unless it is told not to
        return pooler(states.flatten(0, 1)[packing.first][:, None])


def build_forget_mi_network(config: Mapping[str, Any], seed: int) -> ForgetMINetwork:
    """The network with random weights drawn from the seed; torch's global RNG is as it was afterwards.

    Args:
        config: settings of :class:`ForgetMIConfig`; ``{}`` is the published size.
        seed: any integer.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    from forgetmi.options import build_options
    from forgetmi.training.seeds import scoped_seed

    settings = build_options(ForgetMIConfig, config, where="model")
    with scoped_seed(seed):
        return ForgetMINetwork(settings)


def load_forget_mi_checkpoint(folder: Path | str) -> ForgetMINetwork:
    """The network of a checkpoint folder as the authors' code writes it, in eval mode.

    The folder holds ``config.json`` (a BERT config with ``num_labels`` or ``id2label``) and ``pytorch_model.bin`` (a
    pickled state dict, read with ``weights_only=True``). LayerNorm parameters under their oldest names, ``gamma`` and
    ``beta``, are renamed, as the authors' loader does; unlike theirs, no other key may be missing or left over.

    Raises:
        ModelError: a file is missing, damaged, holds more than tensors, or its keys or shapes are not the network's.
    """
    root = Path(folder)
    config = _read_config(root / "config.json")
    file = root / "pytorch_model.bin"
    state = {_current_name(name): tensor for name, tensor in read_state_dict(file).items() if name not in HARMLESS}
    network = build_forget_mi_network(asdict(config), seed=0)
    check_keys(network, state, file)
    network.load_state_dict(state)
    return network.eval()


def _current_name(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }" if stem else name


def _read_config(file: Path) -> ForgetMIConfig:
    from forgetmi.options import build_options

    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the checkpoint's {file.name} cannot be read: {error}",
            where=str(file),
            expected="a folder with config.json and pytorch_model.bin",
        ) from error
    problems = []
    known = {field.name for field in fields(ForgetMIConfig)} - {"num_labels"}
    # What old files may lack: BERT has had the same value throughout.
    problems += [f"{name} is missing" for name in sorted(known - {"pad_token_id", *raw})]
    if raw.get("position_embedding_type", "absolute") != "absolute":
        problems.append(f"position_embedding_type {raw['position_embedding_type']!r} is not supported, only 'absolute'")
    if raw.get("pruned_heads"):
        problems.append("pruned_heads is not supported")
    labels = raw.get("num_labels", len(raw.get("id2label") or ()))
    if not labels:
        problems.append("num_labels (or id2label) is missing")
    if problems:
        raise ModelError(
            f"the checkpoint's {file.name} is not that of a Forget-MI network: {'; '.join(problems)}", where=str(file)
        )
    settings = {name: raw[name] for name in known if name in raw}
    try:
        return build_options(ForgetMIConfig, {**settings, "num_labels": labels}, where=file.name)
    except ConfigError as error:
        raise ModelError(error.what, where=str(file)) from error
