"""Causal language models of transformers: from a local folder, a GGUF file or a bare architecture; whole or LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetmi.errors import ConfigError, ModelError
from forgetmi.models.lora import LoraOptions, add_lora, copy_sharing, lora_layers, remove_lora
from forgetmi.models.ragged import shape_of, spread, use_ragged

Dtype = Literal["float32", "bfloat16", "float64"]
Tuning = Literal["full", "lora", "qlora"]


@dataclass(frozen=True)
class CausalLMConfig:
    """Settings of a :class:`CausalLM`; ``path``, or ``config``, says what it starts from.

    Attributes:
        path: a local folder as transformers writes them (config.json, model.safetensors), or a GGUF file, whose weights
            are unpacked to ``dtype``. Nothing is downloaded.
        config: the content of such a config.json instead: the architecture with weights drawn from the seed.
        checkpoint: a folder with the original's own weights, where it was trained elsewhere; ``path`` is then what
            retrained models start from.
        pretrained: whether the weights came from ``path``: a stored model's settings say so.
        tuning: ``full``: every weight is trained; ``lora``: an adapter; ``qlora``: an adapter over weights in 4 bits
            (NF4), which needs bitsandbytes and CUDA.
        lora: the adapter.
        dtype: of the weights. Adapters are kept in float32.
        gradient_checkpointing: activations are computed again for the gradient instead of being kept: less memory,
            about a third more time.
        packing: the sequences of a batch stand one behind the other in a single row, each seeing only itself, so that
            no time and no memory is spent on padding, except within attention.
    """

    path: Path | None = None
    config: dict[str, Any] | None = None
    checkpoint: Path | None = None
    pretrained: bool = False
    tuning: Tuning = "full"
    lora: LoraOptions = field(default_factory=LoraOptions)
    dtype: Dtype = "float32"
    gradient_checkpointing: bool = False
    packing: bool = False

    def __post_init__(self) -> None:
        problems = []
        if (self.path is None) == (self.config is None):
            problems.append("give exactly one of path (a local folder or GGUF file) and config (random weights)")
        for name in ("path", "checkpoint"):
            place = getattr(self, name)
            if place is not None and not (place.suffix == ".gguf" and place.is_file()) and not _is_folder(place):
                problems.append(f"{name}: {place} is no folder with a config.json, and no .gguf file")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            problems.append("config: 'model_type' is required, for instance 'gpt2'")
        if self.checkpoint is not None and self.tuning != "full":
            problems.append(f"checkpoint: it holds whole weights, and tuning is {self.tuning}; use tuning: full")
        if self.tuning == "qlora":
            problems += _no_quantisation()
        if problems:
            raise ConfigError(problems)


class CausalLM(nn.Module):
    """A causal language model, and what unlearning asks of it.

    ``forward`` is that of transformers and gives ``.logits`` [B, T, V]; :meth:`hidden` and :meth:`read` are its two
    halves, so that logits are made only of the tokens that are asked for.

    Args:
        lm: a model of transformers with an output embedding.
        settings: what it was built from.
    """

    kind = "causal_lm"
    lm: Any
    settings: CausalLMConfig

    def __init__(self, lm: nn.Module, settings: CausalLMConfig) -> None:
        super().__init__()
        self.lm = lm
        self.settings = settings
        self._splits: bool | None = None
        self._ahead: dict[int, Tensor] = {}
        if settings.gradient_checkpointing:
            old = self.lm.gradient_checkpointing_enable  # what older versions call it
            getattr(self.lm, "activation_checkpointing_enable", old)({"use_reentrant": False})
        if settings.packing:
            use_ragged(self.lm)
            self._check_packing()

    @property
    def n_tokens(self) -> int:
        """Rows of the input embedding: ids must be below."""
        return int(self.lm.get_input_embeddings().weight.shape[0])

    @property
    def has_adapter(self) -> bool:
        """Whether LoRA layers are in it."""
        return bool(lora_layers(self.lm))

    @property
    def is_quantised(self) -> bool:
        """Whether weights are kept as integers, and cannot be trained or changed."""
        return any(not parameter.is_floating_point() for parameter in self.lm.parameters())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """What transformers returns, without a cache."""
        return self.lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor | None:
        """Last hidden states [B, T, D], of which :meth:`read` makes logits; ``None`` where a model has no halves."""
        if not self.splits:
            return None
        if (ready := self._ahead.pop(id(input_ids), None)) is not None:
            return ready
        if self.settings.packing and not inputs and (packed := self._packed(input_ids, attention_mask)) is not None:
            return packed
        return self._states(input_ids, attention_mask, **inputs)

    def read(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        config = self.lm.config.get_text_config()
        logits = self.lm.get_output_embeddings()(hidden)
        scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)  # Cohere; Granite
        if scale != 1.0:  # two passes over all logits
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @contextmanager
    def together(self, texts: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """In this block, :meth:`hidden` of these batches gives, once each, what one pass over all of them has found.

        Args:
            texts: ids and mask [B, T] of each, as :meth:`hidden` will be given them. They are passed one by one where
                the model is not set to packing, or one of them is not padded on the right.
        """
        if self.settings.packing and self.splits and len(texts) > 1 and all(_on_the_right(mask) for _, mask in texts):
            states = self._in_a_row(texts)
            self._ahead = {id(ids): found for (ids, _), found in zip(texts, states, strict=True)}
        try:
            yield
        finally:
            self._ahead = {}

    @property
    def splits(self) -> bool:
        """Whether the two halves give what the whole gives: tried once, on a few tokens."""
        if self._splits is None:
            from forgetmi.training.modes import scoring

            with scoring(self):
                try:
                    ids = torch.arange(4, device=self.lm.device)[None] % self.n_tokens
                    whole = self(ids, torch.ones_like(ids)).logits.float()
                    halves = self.read(self._states(ids, torch.ones_like(ids))).float()
                    scale = float(whole.abs().max())
                    self._splits = bool((whole - halves).abs().max() <= 1e-3 * max(scale, 1e-6))
                except (AttributeError, TypeError, RuntimeError):
                    self._splits = False
        return self._splits

    def adapted(self, lora: LoraOptions, seed: int) -> CausalLM:
        """The same model with a new adapter, all of whose other weights share this one's memory."""
        from forgetmi.training.seeds import scoped_seed

        made = copy_sharing(self, everything=True)
        with scoped_seed(seed):
            add_lora(made.lm, lora)
        made.settings = _changed(self.settings, tuning="lora", lora=lora)
        return made.train(self.training)

    def sharing_copy(self) -> CausalLM:
        """A copy to train: its frozen weights share this one's memory, so a model with an adapter is not held twice."""
        return copy_sharing(self)

    def without_adapter(self, *, merge: bool = False) -> CausalLM:
        """The model with its adapter off (no weight is copied), or merged into weights of its own."""
        made = copy_sharing(self, everything=True)
        remove_lora(made.lm, merge=merge)
        made.settings = _changed(self.settings, tuning="full", lora=LoraOptions())
        return made.requires_grad_(merge).train(self.training)

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings that rebuild the architecture, without the folder that weights came from.

        Raises:
            ModelError: the weights are kept in 4 bits.
        """
        if self.is_quantised:
            raise ModelError(
                "weights in 4 bits cannot be stored", fix="store the adapter with PEFT, or train with tuning: lora"
            )
        config = {
            k: v for k, v in self.lm.config.to_dict().items() if k not in ("_name_or_path", "quantization_config")
        }
        return {
            "config": config,
            "pretrained": self.settings.pretrained or self.settings.path is not None,
            "tuning": "lora" if self.has_adapter else "full",
            "lora": self.settings.lora.to_config(),
            "dtype": str(self.lm.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "gradient_checkpointing": self.settings.gradient_checkpointing,
            "packing": self.settings.packing,
        }

    def _states(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        body = self.lm.base_model
        states: Tensor = body(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs
        ).last_hidden_state
        return states

    def _packed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """The states of texts that are padded on the right, from a row without padding; ``None`` for other texts."""
        if bool(attention_mask.all()) or not _on_the_right(attention_mask):
            return None
        return self._in_a_row([(input_ids, attention_mask)])[0]

    def _in_a_row(self, texts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """States [B, T, D] of several batches of texts (ids and mask [B, T]) from one pass; zero at padding."""
        masks = [mask.bool() for _, mask in texts]
        width = max(mask.shape[1] for mask in masks)
        there = torch.cat([F.pad(mask, (0, width - mask.shape[1])) for mask in masks])
        ids = torch.cat([ids[mask] for (ids, _), mask in zip(texts, masks, strict=True)])
        places = torch.arange(width, device=ids.device).expand_as(there)[there]
        row = self._states(ids[None], shape_of(there), position_ids=places[None])[0]
        parts = row.split([int(mask.sum()) for mask in masks])
        return [spread(part, mask) for part, mask in zip(parts, masks, strict=True)]

    def _check_packing(self) -> None:
        """Refuse a model in which a token would see other texts of its row."""
        from forgetmi.training.modes import scoring

        ids = torch.arange(12, device=self.lm.device).view(2, 6) % self.n_tokens
        mask = torch.ones_like(ids)
        mask[1, 2:] = 0
        kinds = set(getattr(self.lm.config.get_text_config(), "layer_types", None) or ["full_attention"])
        reason = "" if kinds == {"full_attention"} else f"it has layers of kind {', '.join(sorted(kinds))}"
        if not reason:
            with scoring(self):
                try:
                    packed, padded = self._packed(ids, mask), self._states(ids, mask)
                    if not self.splits:
                        reason = "its head cannot be run apart"
                    elif packed is None or not _alike(packed, padded * mask[..., None]):
                        reason = "a packed text gives other states than a text on its own"
                except Exception as error:  # whatever a model makes of a mask that it does not know
                    reason = f"it takes no mask of blocks ({type(error).__name__}: {error})"
        if reason:
            raise ModelError(f"sequences cannot be packed for this model: {reason}", fix="set packing: false")


def _on_the_right(mask: Tensor) -> bool:
    """Whether texts are padded on the right only, none of them without a token."""
    there = mask.bool()
    return torch.equal(
        there, torch.arange(there.shape[1], device=mask.device) < there.sum(dim=1, keepdim=True).clamp(min=1)
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-4 if a.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def build_causal_lm(config: Mapping[str, Any] | CausalLMConfig, seed: int) -> CausalLM:
    """A language model from settings of :class:`CausalLMConfig`; what has no weights yet is drawn from the seed.

    Raises:
        ConfigError: every setting that is wrong.
        ModelError: transformers cannot build or read it, or its folder lacks weights.
    """
    # `training` stands above `models`; this module of it imports nothing but torch and numpy.
    from forgetmi.options import build_options
    from forgetmi.training.seeds import scoped_seed

    settings = config if isinstance(config, CausalLMConfig) else build_options(CausalLMConfig, config, where="model")
    with scoped_seed(seed):
        lm = _from_config(settings) if settings.path is None and settings.checkpoint is None else _read(settings)
        if settings.tuning != "full":
            add_lora(lm, settings.lora)
    model = CausalLM(lm, settings)
    _ = model.splits  # tried now: inside torch.func it could not be
    return model


def _from_config(settings: CausalLMConfig) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(settings.config or {})
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, settings.dtype))
    except Exception as error:  # transformers raises OSError, ValueError, TypeError, its own, ...
        raise ModelError(f"transformers cannot build the model: {type(error).__name__}: {error}") from error


def _read(settings: CausalLMConfig) -> Any:
    from transformers import AutoModelForCausalLM

    place = settings.checkpoint or settings.path
    assert place is not None  # build_causal_lm asks for weights only where there are some
    options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype)}
    if settings.tuning == "qlora":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    folder = place
    if place.suffix == ".gguf":
        refuse_without_gguf(place)
        folder, options["gguf_file"] = place.parent, place.name
    try:
        with _quiet():
            read: Any = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, SafetensorError, ...
        raise ModelError(
            f"transformers cannot read the model {place.name}: {type(error).__name__}: {error}",
            where=str(place),
            expected="a folder with config.json and model.safetensors, or a GGUF file of a known architecture",
            fix="check that it is complete; nothing is downloaded",
        ) from error
    model, found = read
    wrong = [*found["missing_keys"], *(str(item[0]) for item in found["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"the weights of {len(wrong)} of the model's tensors are missing or of another shape: "
            + ", ".join(sorted(wrong)[:5]),
            where=str(place),
            fix="copy the folder again; a model with random weights in it would be useless",
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars, which would stand in a job's log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def refuse_without_gguf(place: Path) -> None:
    """Raise :class:`ModelError` where the package that reads GGUF files is not there."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ModelError(
            f"{place.name} is a GGUF file, and the package that reads it is not installed",
            where=str(place),
            fix="pip install gguf, or convert the file to a folder with safetensors",
        )


def _no_quantisation() -> list[str]:
    """Why weights cannot be kept in 4 bits here."""
    from importlib.util import find_spec

    reasons = []
    if not torch.cuda.is_available():
        reasons.append("torch sees no CUDA device")
    if find_spec("bitsandbytes") is None:
        reasons.append("the package bitsandbytes is not installed")
    return [f"tuning: qlora cannot be used here: {' and '.join(reasons)}; use tuning: lora"] if reasons else []


def _is_folder(place: Path) -> bool:
    return (place / "config.json").is_file()


def _changed(settings: CausalLMConfig, **changes: Any) -> CausalLMConfig:
    made = object.__new__(CausalLMConfig)  # not checked again: the folder of a pretrained model may be gone by now
    for name, value in {**vars(settings), **changes}.items():
        object.__setattr__(made, name, value)
    return made
