"""Original, retrained and unlearned models of one request, and what each of them gives away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.membership import ATTACKS
from forgetmi.attacks.membership.result import PartSignals, References
from forgetmi.batch import Loader
from forgetmi.errors import ForgetMIError, MethodError, ModelError, TrainingError
from forgetmi.methods import build_method
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.retrain import Retrain
from forgetmi.methods.validation import forgetting_gap
from forgetmi.metrics.memorisation import exact_memorisation, greedy_answers, matching_share
from forgetmi.metrics.token_signals import mean_nll, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.models.causal_lm import CausalLM, CausalLMConfig, build_causal_lm
from forgetmi.models.tokenizer import END, PAD, train_lm_tokenizer
from forgetmi.partition import Partition
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.options import FitOptions
from forgetmi.training.recipe import train_by_recipe
from forgetmi.training.reference import Reference
from forgetmi.training.seeds import derive_seed, numpy_generator
from forgetmi.training.trainer import Trainer
from notes_lm.notes import FORMAT, Notes

LARGE = 10**9
"""Parameters from which a model is trained by an adapter."""


@dataclass(frozen=True)
class ModelPlan:
    """What is trained.

    Attributes:
        folder: a local folder of transformers, or a GGUF file; ``None``: a small GPT with random weights.
        vocabulary, width, layers, heads: of the small GPT.
        max_length: longest sequence, tokens.
    """

    folder: Path | None = None
    vocabulary: int = 1024
    width: int = 128
    layers: int = 2
    heads: int = 4
    max_length: int = 256

    @property
    def adapter(self) -> bool:
        """Whether the model is too large to train all its weights."""
        return self.folder is not None and parameters_of(self.folder) > LARGE


class Study:
    """One request: everything that is trained and measured for it.

    Args:
        notes: the data.
        plan: the model.
        recipe: how originals and retrained models are trained.
        device: for torch.
        seed: of every model.
        batch_size: of scoring.
    """

    def __init__(
        self, notes: Notes, plan: ModelPlan, recipe: FitOptions, *, device: str, seed: int, batch_size: int = 64
    ) -> None:
        self.notes, self.plan, self.recipe, self.seed, self.batch_size = notes, plan, recipe, seed, batch_size
        self.partition = resolve(notes.notes, ForgetRequest.of("patient", list(notes.forgotten)))
        self.trainer = Trainer(device=device, progress=False, precision=self._precision(device))
        self.task = CausalLMTask(modality="note")
        self.tokenizer = self._tokenizer()
        modality = DialogueModality(self.tokenizer, plan.max_length, on_long="cut", format=FORMAT)
        self.loader = Loader(notes.notes, {"note": modality})
        self.probes = Loader(notes.probes, {"note": modality})
        self.parts = {
            "forget": notes.once(self.partition.forget),
            "retain": self.partition.retain[: len(self.partition.test)],
            "test": self.partition.test,
        }

    def fresh_model(self, seed: int) -> CausalLM:
        """What the original and the retrained models start from."""
        return build_causal_lm(self._settings, seed)

    def train_original(self) -> tuple[nn.Module, dict[str, float]]:
        """The model that knows everybody."""
        model = self.fresh_model(derive_seed(self.seed, "original", "weights"))

        def work() -> nn.Module:
            train_by_recipe(
                model,
                task=self.task,
                loader=self.loader,
                train=self.partition.train,
                validation=self.partition.validation,
                recipe=self.recipe,
                trainer=self.trainer,
                order_seed=derive_seed(self.seed, "original", "order"),
                seed=derive_seed(self.seed, "original"),
                name="original",
            )
            return model.eval()

        return self._timed(work)

    def retrain(self, original: nn.Module, index: int) -> tuple[nn.Module, dict[str, float]]:
        """A model that never saw the forgotten."""
        job = self.job(original, self.partition, derive_seed(self.seed, "retrained", index))
        return self._timed(lambda: Retrain().unlearn(job))

    def unlearn(
        self, original: nn.Module, method: str, options: Mapping[str, Any], partition: Partition | None = None
    ) -> tuple[nn.Module | None, dict[str, Any]]:
        """The unlearned model and what it cost; no model, and why, where the method refuses or breaks."""
        job = self.job(original, partition or self.partition, derive_seed(self.seed, "unlearned"))
        try:
            model, cost = self._timed(lambda: build_method(method, options).unlearn(job))
        except MethodError as error:
            return None, {"status": "refused", "reason": one_line(error)}
        except (TrainingError, ModelError) as error:
            return None, {"status": "diverged", "reason": one_line(error)}
        return model, {"status": "done", **cost}

    def choose(self, original: nn.Module, method: str, candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One of a method's settings, by :func:`~forgetmi.methods.validation.forgetting_gap`: forget and validation
        records. The partition that it sees has no test record, and no retrained model exists for it.

        Returns:
            ``options`` and ``model``, both ``None`` where none can be used; ``cost`` of the chosen one; ``tried``.
        """
        partition = replace(self.partition, test=())
        gap = forgetting_gap(self.job(original, partition, self.seed), batch_size=self.batch_size)
        best: dict[str, Any] = {"options": None, "model": None, "cost": {}, "criterion": float("inf")}
        tried = []
        for options in candidates:
            model, cost = self.unlearn(original, method, options, partition)
            entry: dict[str, Any] = {"options": dict(options), "criterion": None, **cost}
            tried.append(entry)
            if model is not None:
                try:
                    entry["criterion"] = round(gap(model, 0), 5)
                except ModelError as error:
                    entry |= {"status": "diverged", "reason": one_line(error)}
                    continue
                if entry["criterion"] < best["criterion"]:
                    best = {"options": dict(options), "model": model, "cost": cost, "criterion": entry["criterion"]}
            elif entry["status"] == "refused":
                break
        return {**best, "tried": tried}

    def job(self, original: nn.Module, partition: Partition, seed: int) -> UnlearningJob:
        """What a method is given."""
        return UnlearningJob(
            model=original,
            partition=partition,
            task=self.task,
            loader=self.loader,
            trainer=self.trainer,
            seed=seed,
            reference=Reference(original, self.task, self.trainer.device),
            fresh_model=self.fresh_model,
            recipe=self.recipe,
        )

    def scores(self, model: nn.Module) -> dict[str, Any]:
        """All that is measured of a model, record by record: ``loss`` (nats a token) and ``accuracy`` of each part's
        answers; of the forgotten, ``identity``: the share of its tokens that the model writes when it is given the
        name, and ``verbatim``: whether it writes all of them.

        Raises:
            ModelError: a score is not finite.
        """
        found: dict[str, Any] = {}
        for part, indices in self.parts.items():
            batches = self.loader.batches(indices, self.batch_size)
            signals = token_signals(model, self.task, batches, self.trainer.device)
            found[part] = {"loss": mean_nll(signals).values, "accuracy": exact_memorisation(signals).values}
        found["forget"]["identity"], found["forget"]["verbatim"] = self._asked(model)
        return found

    def attacks(
        self, scores: Mapping[str, Any], retrained: Sequence[Mapping[str, Any]], n_resamples: int
    ) -> dict[str, Any]:
        """AUC of the package's attacks on a model, forgotten against test patients, with 95 % intervals by patient.

        Args:
            scores: of :meth:`scores`.
            retrained: of the retrained models (without the attacked one), which ``calibrated`` compares with.
            n_resamples: of the intervals.
        """
        parts, start = {}, 0
        for part in ("forget", "test"):
            n = len(self.parts[part])
            others = np.stack([other[part]["loss"] for other in retrained])
            references = {"retrained": References({"loss": others}, np.zeros(others.shape, dtype=bool))}
            patients = np.arange(start, start + n)
            parts[part] = PartSignals({"loss": scores[part]["loss"]}, patients, references)
            start += n
        found = {}
        for name in ("loss", "calibrated"):
            attack = ATTACKS[name](n_resamples=n_resamples, fprs=(0.1,))
            auc = attack.result(parts["forget"], parts["test"], numpy_generator(0, name)).figures["auc"]
            found[name] = {"value": auc.value, "low": auc.interval.low, "high": auc.interval.high}
        return found

    def _asked(self, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(model, CausalLM):
            raise ModelError(f"a {type(model).__name__} writes no text", expected="a CausalLM")
        shares = []
        for batch in self.probes.batches(self.parts["forget"], self.batch_size):
            tokens = dict(batch.to(self.trainer.device).inputs["note"])
            # The token that ends the probe is none of the identity: in the note the findings follow.
            tokens["labels"] = tokens["labels"].masked_fill(tokens["input_ids"] == self.tokenizer.eos_id, -100)
            shares.append(matching_share(*greedy_answers(model, tokens)).cpu())
        share = torch.cat(shares).double().numpy()
        return share, share == 1.0

    def _timed(self, work: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, float]]:
        started, processor = time.perf_counter(), time.process_time()
        model = work()
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        wall = round(time.perf_counter() - started, 2)
        return model, {"seconds": wall, "cpu_seconds": round(time.process_time() - processor, 2)}

    def _tokenizer(self) -> LMTokenizer:
        if self.plan.folder is not None:
            return read_lm_tokenizer(self.plan.folder)
        # A vocabulary is learned from its texts and cannot be unlearned: the forgotten have no part in it.
        values = [self.notes.notes[i].value("note") for i in self.partition.retain]
        texts = [FORMAT.replace("{prompt}", value["prompt"]) + value["answer"] for value in values]
        return LMTokenizer(train_lm_tokenizer(texts, self.plan.vocabulary), END, PAD)

    @cached_property
    def _settings(self) -> CausalLMConfig:
        plan = self.plan
        if plan.folder is None:
            size = self.tokenizer.size
            shape = {"n_embd": plan.width, "n_layer": plan.layers, "n_head": plan.heads, "n_positions": plan.max_length}
            ends = {"bos_token_id": self.tokenizer.eos_id, "eos_token_id": self.tokenizer.eos_id}
            dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            return CausalLMConfig(config={"model_type": "gpt2", "vocab_size": size, **shape, **ends, **dropout})
        large = plan.adapter
        on_gpu = self.trainer.device.type == "cuda"
        return CausalLMConfig(
            path=plan.folder,
            tuning="lora" if large else "full",
            dtype="bfloat16" if large and on_gpu else "float32",
            gradient_checkpointing=large,
        )

    def _precision(self, device: str) -> Any:
        return "bf16" if device.startswith("cuda") and self.plan.folder is not None else "no"


def parameters_of(place: Path) -> int:
    """How many parameters a model's files hold, from their headers or, of other files, from their size (two bytes
    each).
    """
    if place.is_file():
        return place.stat().st_size * 2  # GGUF: four bits each or more
    total = 0
    for file in place.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(int(np.prod(shape)) for shape in shapes)
    return total or sum(file.stat().st_size // 2 for file in place.glob("*.bin"))


def one_line(error: ForgetMIError) -> str:
    """The error's first line."""
    return str(error).splitlines()[0]
