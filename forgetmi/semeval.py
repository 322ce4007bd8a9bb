"""The submission of SemEval-2025 task 4: a model's folder in, an unlearned model's folder out, by any method."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetmi.batch import Loader
from forgetmi.data_adapters.lume import Lume
from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.methods.base import UnlearningJob
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLM, CausalLMConfig, Dtype, build_causal_lm
from forgetmi.models.lora import LoraOptions
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks import build_task
from forgetmi.training.reference import Reference
from forgetmi.training.trainer import Trainer

MODALITY = "dialogue"
# What a model's folder holds beside its weights and its config: copied as it is.
_KEPT = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "added_tokens.json", "chat_template*",
         "generation_config.json")  # fmt: skip


def unlearn(
    model_dir: Path | str,
    out_dir: Path | str,
    forget_dir: Path | str,
    retain_dir: Path | str,
    *,
    method: str = "ails",
    options: Mapping[str, Any] | None = None,
    lora: LoraOptions | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: Dtype = "float32",
    format: str = "{prompt} ",
    max_length: int | None = None,
    progress: bool = True,
) -> Path:
    """Unlearn LUME's forget documents; the challenge's signature, with any method. Nothing is downloaded.

    With ``format`` a prompt stands before its answer as it is, as the challenge's evaluation asks (no chat template).
    An adapter is merged at the end: what is written has weights only, so that nobody can delete it and have the
    original again.

    Args:
        model_dir: a folder of transformers: config.json, weights, tokenizer.
        out_dir: a new or empty folder; it gets the same files.
        forget_dir, retain_dir: folders with ``forget*`` and ``retain*`` files as
            :class:`~forgetmi.data_adapters.lume.Lume` reads them (JSON lines or Parquet); they may be one.
        method: a registered name: ``forgetmi ls methods``. The challenge's baselines are ``gradient_ascent``,
            ``grad_diff``, ``kl_min`` and ``npo``; ``ails`` and ``zjuklab`` are two of its winners.
        options: of the method.
        lora: unlearn in an adapter.
        seed: every draw depends on it.
        device, dtype: where, and in what, the model is kept; the weights are written in ``dtype``.
        format: see above; must hold ``{prompt}``.
        max_length: in tokens; longer texts lose their end. By default what the model has positions for.
        progress: show bars.

    Returns:
        ``out_dir``.

    Raises:
        ConfigError: the method or an option is wrong, or ``out_dir`` holds something.
        DataError, RequestError, ModelError, MethodError: as the parts say.
    """
    source, out = Path(model_dir), Path(out_dir)
    chosen = build_method(method, options)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError([f"out_dir: {out} is not empty: it is not overwritten"])
    dataset = Lume(Path(forget_dir), retain_root=Path(retain_dir)).load()
    wanted = [record.patient_id for record in dataset if record.attributes["source_split"] == "forget"]
    partition = resolve(dataset, ForgetRequest.of("patient", list(dict.fromkeys(wanted))))
    model = build_causal_lm(CausalLMConfig(path=source, dtype=dtype), seed).eval()
    room = max_length or getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)
    modality = DialogueModality(read_lm_tokenizer(source), room, on_long="cut", format=format)
    task, trainer = build_task("causal_lm", {"modality": MODALITY}), Trainer(device=device, progress=progress)
    model.to(trainer.device)
    job = UnlearningJob(
        model=model,
        partition=partition,
        task=task,
        loader=Loader(dataset, {MODALITY: modality}),
        trainer=trainer,
        seed=seed,
        reference=Reference(model, task, trainer.device),
        lora=lora,
    )
    unlearned = chosen.unlearn(job)
    if not isinstance(unlearned, CausalLM):
        raise ConfigError([f"method {method}: what it makes is no language model that can be written"])
    _write(unlearned.without_adapter(merge=True) if unlearned.has_adapter else unlearned, source, out)
    return out


def _write(model: CausalLM, source: Path, out: Path) -> None:
    """Under another name first, so that a folder of this name is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        model.lm.save_pretrained(part)
        for pattern in _KEPT:
            for file in source.glob(pattern):
                shutil.copyfile(file, part / file.name)
        if out.is_dir():
            out.rmdir()
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
