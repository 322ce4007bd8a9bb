"""The one training loop: originals, retrained models and every gradient method run through it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, TrainingError
from forgetmi.models.weights import state_sha256
from forgetmi.training.checkpoints import CheckpointFile
from forgetmi.training.devices import Precision, make_accelerator
from forgetmi.training.losses import Loss, Objective
from forgetmi.training.modes import preserved_mode, same_device, set_fit_mode
from forgetmi.training.options import FitOptions, build_optimizer, lr_factor
from forgetmi.training.plans import Pieces, Plan, Step, split_step
from forgetmi.training.progress import Progress
from forgetmi.training.runlog import RunLog
from forgetmi.training.seeds import derive_seed, scoped_seed, set_scoped_seed

Validation = Callable[[nn.Module, int], float]
"""A number to be made small, from the model (in eval mode, no gradients) after an epoch."""

Until = Callable[[nn.Module, int], bool]
"""Whether an epoch was the last, asked after it (in eval mode, no gradients)."""

Watch = Callable[[dict[str, Batch]], None]
"""Is shown the batches of each piece of a step, on the device, before the step's hooks run."""

Named = list[tuple[str, nn.Parameter]]
Hook = Callable[[Named], None]
"""Changes gradients or weights in place; is given the trainable parameters and their names, in the model's order."""


class Remembered(Protocol):
    """What an objective keeps from step to step (a reference's outputs), and a resumed fit must find again."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        ...


@dataclass
class FitResult:
    """What a fit did.

    Attributes:
        epochs: finished epochs; ``best_epoch`` is the one whose weights were kept (0-based; -1 for none).
        steps: optimiser steps.
        seconds: wall time of this call (a resumed fit counts from the resumption).
        history: one dict an epoch: means of the loss and its parts over the records whose steps had them, and
            ``validation`` if measured.
    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


class _Stepper(nn.Module):
    """Model and objective as one module with one forward a step: what DDP and autocast must wrap."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batches: dict[str, Batch], rest: Callable[[], Loss] | None = None, whole: bool = False) -> Loss:
        loss = self.objective(self.model, batches) if rest is None else rest()
        return loss.whole() if whole else loss


class Trainer:
    """Runs fits on one device or, under ``accelerate launch``/``torchrun``, on several.

    Args:
        device: ``"cpu"``, ``"cuda"``, ... ; ``None`` lets accelerate choose.
        precision: autocast of the forward pass: ``"no"``, ``"bf16"`` or ``"fp16"`` (with loss scaling; not on a CPU).
        checkpoint_dir: where fits save; ``None`` saves nothing.
        resume: go on from a checkpoint that is there.
        log: the run's log; the first process writes it.
        num_workers: processes that load batches; 0 loads in this one.
        progress: show bars or lines.

    Raises:
        ConfigError: there is no such device here, or it cannot do the precision.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        precision: Precision = "no",
        checkpoint_dir: Path | None = None,
        resume: bool = False,
        log: RunLog | None = None,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        accelerator = make_accelerator(device, precision)
        self.device: torch.device = accelerator.device
        problems = []
        if device is not None and not same_device(torch.device(device), self.device):
            problems.append(f"device: {device} was asked for, and accelerate gives {self.device} on this machine")
        if precision == "fp16" and self.device.type == "cpu":
            problems.append("precision: fp16 needs a GPU; use bf16 or no on a CPU")
        if problems:
            raise ConfigError(problems)
        self.wanted_device, self.precision = device, precision
        self.checkpoint_dir, self.resume = checkpoint_dir, resume
        self.log = log if log is not None and accelerator.is_main_process else RunLog()
        self.num_workers, self.progress = num_workers, progress
        self._update: tuple[Hook, ...] = ()
        self._after_step: tuple[Hook, ...] = ()
        self._watch: tuple[Watch, ...] = ()
        self._kept: tuple[Remembered, ...] = ()
        self._prefix, self._identity = "", ""

    def constrained(
        self,
        *,
        update: Hook | None = None,
        after_step: Hook | None = None,
        watch: Watch | None = None,
        kept: Remembered | None = None,
        prefix: str = "",
        identity: str = "",
    ) -> Trainer:
        """The same trainer, each of whose fits runs these hooks after those that the fit itself is given.

        So a method that wraps another (a mask over any objective) need not know how that one fits.

        Args:
            update, after_step: see :meth:`fit`.
            watch: for hooks that must know which records a step is of.
            kept: what the hooks keep from step to step; checkpoints hold it.
            prefix: of the fits' names: two stages of one method need checkpoints of their own.
            identity: what tells these fits from those without the hooks, or with others.
        """
        other = copy.copy(self)
        other._update = (update, *self._update) if update is not None else self._update
        other._after_step = (after_step, *self._after_step) if after_step is not None else self._after_step
        other._watch = (watch, *self._watch) if watch is not None else self._watch
        other._kept = (kept, *self._kept) if kept is not None else self._kept
        other._prefix, other._identity = self._prefix + prefix, f"{self._identity}{identity}"
        return other

    def discard(self, name: str) -> bool:
        """Delete a fit's checkpoint: of a network, say, that holds what is to be forgotten. Whether there was one."""
        path = self._checkpoint(name)
        if path is None or not path.exists():
            return False
        path.unlink(missing_ok=True)  # another process may have been faster
        return True

    def _checkpoint(self, name: str) -> Path | None:
        return None if self.checkpoint_dir is None else self.checkpoint_dir / f"{name}.checkpoint.pt"

    def fit(
        self,
        model: nn.Module,
        plan: Plan,
        objective: Objective,
        options: FitOptions,
        *,
        seed: int,
        name: str = "fit",
        validate: Validation | None = None,
        until: Until | None = None,
        identity: str = "",
        memory: Remembered | None = None,
        update: Hook | None = None,
        after_step: Hook | None = None,
        on_epoch: Callable[[int], None] | None = None,
        on_step: Callable[[Mapping[str, float]], None] | None = None,
    ) -> FitResult:
        """Minimise the objective over the plan; the model is changed in place and left in the mode it came in.

        A fit that was stopped at any step and is resumed ends with the weights of an unbroken one, bit for bit on the
        CPU: batches, noise and dropout depend on ``(seed, epoch, step)`` and the checkpoint holds everything else.

        Args:
            model: the model to train; parameters with ``requires_grad=False`` do not move.
            plan: which records each step sees.
            objective: the loss; called once for each piece of a step.
            options: see :class:`FitOptions`.
            seed: of this fit.
            name: of this fit within the run: its checkpoint's file name and its name in the log.
            validate: called after each epoch; lower is better.
            until: ends the fit after an epoch, before ``options.epochs`` are over.
            identity: what else makes this fit the one that it is (the method's options, the task): a checkpoint of a
                fit with another identity, plan, options, seed or start is refused.
            memory: what the objective keeps from step to step; checkpoints hold it.
            update: how a gradient becomes a step: called on the whole step's gradients (of all pieces and processes)
                before they are clipped; it may draw from torch's global generator. In fp16 they are scaled, so it must
                be homogeneous (a mask, a projection).
            after_step: called after each optimiser step, e.g. to put back weights that decay moved.
            on_epoch: told the epoch before its first step, and again when a fit is resumed within it.
            on_step: told the loss and its parts after each step, of all its pieces and processes.

        Raises:
            ConfigError: the options choose or stop by validation and ``validate`` is not given, or nothing in the
                model is trainable.
            TrainingError: the loss or the gradient is not finite, or the loss has diverged; the message names the
                step and the records' positions. Or a checkpoint of another run was found.
        """
        if validate is None and options.validates:
            raise ConfigError([f"{name}: select: best and patience need validation, and this fit has none"])
        name, identity = self._prefix + name, identity + self._identity
        fit = _Fit(self, model, plan, objective, options, seed, name, validate, identity, memory)
        fit.update = (*([update] if update is not None else []), *self._update)
        fit.after_step = (*([after_step] if after_step is not None else []), *self._after_step)
        fit.on_epoch, fit.on_step, fit.until = on_epoch, on_step, until
        fit.watch, fit.kept = self._watch, self._kept
        return fit.run()


class _Fit:
    """One call of :meth:`Trainer.fit`."""

    def __init__(
        self,
        trainer: Trainer,
        model: nn.Module,
        plan: Plan,
        objective: Objective,
        options: FitOptions,
        seed: int,
        name: str,
        validate: Validation | None,
        identity: str,
        memory: Remembered | None,
    ) -> None:
        self.trainer, self.device = trainer, trainer.device
        self.accelerator = make_accelerator(trainer.wanted_device, trainer.precision)
        self.model, self.memory = model.to(self.device), memory
        self.plan, self.options, self.seed, self.name, self.validate = plan, options, seed, name, validate
        self.update: tuple[Hook, ...] = ()
        self.after_step: tuple[Hook, ...] = ()
        self.watch: tuple[Watch, ...] = ()
        self.kept: tuple[Remembered, ...] = ()
        self.on_epoch: Callable[[int], None] | None = None
        self.on_step: Callable[[Mapping[str, float]], None] | None = None
        self.until: Until | None = None
        self.done = False
        self.checkpoint: CheckpointFile | None = None
        if (path := trainer._checkpoint(name)) is not None:
            start = state_sha256(model.state_dict())
            same = f"{identity}\n{trainer.precision}\n{plan.steps(0)}"
            self.checkpoint = CheckpointFile(path, options=options, seed=seed, start=start, identity=same)
        self.model.zero_grad(set_to_none=True)  # what an earlier user of the model left there is not ours
        self.optimizer = self.accelerator.prepare_optimizer(build_optimizer(self.model, options))
        self.stepper = self.accelerator.prepare_model(_Stepper(self.model, objective))
        self.result, self.position = FitResult(), (0, 0)  # what is done; the next epoch and step
        self.best_value = math.inf
        self.best_state: dict[str, Any] | None = None
        self.epoch_sums: dict[str, list[float]] = {}  # part of the loss: its sum over records, and how many they were

    def run(self) -> FitResult:
        started = time.perf_counter()
        state = self.checkpoint.load() if self.checkpoint is not None and self.trainer.resume else None
        if state is not None:
            self._restore(state)
        self.trainer.log.event("fit_started", fit=self.name, epoch=self.position[0], step=self.position[1])
        total = sum(len(self.plan.steps(epoch)) for epoch in range(self.options.epochs))  # epochs may differ in length
        self.total_steps = max(total, 1)
        shown = self.trainer.progress and self.accelerator.is_main_process
        bar = Progress(total, self.name, enabled=shown, done=self.result.steps)
        try:
            with preserved_mode(self.model), scoped_seed(self.seed, self.device):
                for epoch in range(self.position[0], self.options.epochs):
                    if self.done or self._stop_early(epoch):
                        break
                    self._epoch(epoch, bar)
        finally:
            bar.close()
        if self.options.select == "best" and self.best_state is not None:
            self.model.load_state_dict(self.best_state)
        else:
            self.result.best_epoch = self.result.epochs - 1
        self.result.seconds = time.perf_counter() - started
        self.trainer.log.event(
            "fit_finished", fit=self.name, steps=self.result.steps, best_epoch=self.result.best_epoch,
            seconds=round(self.result.seconds, 3),
        )  # fmt: skip
        return self.result

    def _epoch(self, epoch: int, bar: Progress) -> None:
        set_fit_mode(self.model, self.options.mode)
        if self.on_epoch is not None:
            self.on_epoch(epoch)
        steps = self.plan.steps(epoch)
        first = self.position[1] if epoch == self.position[0] else 0
        if first == 0:
            self.epoch_sums = {}
        sizes = [len(next(iter(step.values()))) for step in steps]
        for number, pieces in self._pieces(steps, first, epoch):
            parts = self._step(epoch, number, steps[number], pieces)
            if self.on_step is not None:
                self.on_step(parts)
            for part, value in parts.items():
                done, count = self.epoch_sums.get(part, (0.0, 0))
                self.epoch_sums[part] = [done + value * sizes[number], count + sizes[number]]
            bar.advance(parts)
            every = self.options.checkpoint_every
            if every and self.result.steps % every == 0 and number + 1 < len(steps):
                self._save((epoch, number + 1))
        means = {part: value / count for part, (value, count) in self.epoch_sums.items()}
        if self.accelerator.num_processes > 1:
            for buffer in self.model.buffers():  # each process has its own BatchNorm statistics: the first one's count
                broadcast(buffer)
        if self.validate is not None:
            means["validation"] = self._validate(epoch)
        if self.until is not None:
            self.done = self._asked(self.until, epoch) > 0
        self.result.history.append(means)
        self.result.epochs = epoch + 1
        self.trainer.log.event("epoch", fit=self.name, epoch=epoch, **means)
        self._save((epoch + 1, 0))

    def _pieces(self, steps: list[Step], first: int, epoch: int) -> Iterator[tuple[int, list[tuple[Any, float]]]]:
        """Steps from ``first`` on, each as this process's pieces, loaded in order (by workers, if any)."""
        world, rank, accumulate = (
            self.accelerator.num_processes,
            self.accelerator.process_index,
            self.options.accumulate,
        )
        flat: list[tuple[Step, float]] = []
        for step in steps[first:]:
            flat += split_step(step, accumulate * world)[rank::world]
        loaded = DataLoader(
            Pieces(self.plan, flat, epoch),
            batch_size=None,
            num_workers=self.trainer.num_workers,
            generator=torch.Generator(),  # without one, starting an iterator would draw from the global RNG
        )
        pieces: list[tuple[Any, float]] = []
        number = first
        for piece in loaded:
            pieces.append(piece)
            if len(pieces) == accumulate:
                yield number, pieces
                number, pieces = number + 1, []

    def _step(self, epoch: int, number: int, step: Step, pieces: list[tuple[Any, float]]) -> dict[str, float]:
        """One optimiser step. Returns the loss and its parts."""
        set_scoped_seed(derive_seed(self.seed, epoch, number, self.accelerator.process_index), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * lr_factor(self.options, self.result.steps, self.total_steps)
        sums: dict[str, Tensor] = {}
        for k, (batches, weight) in enumerate(pieces):
            moved = {stream: batch.to(self.device) for stream, batch in batches.items()}
            for look in self.watch:
                look(moved)
            last = k + 1 == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.stepper):
                world = self.accelerator.num_processes
                loss = self.stepper(moved, None, world > 1)  # DDP wants one backward pass for one forward pass
                while True:
                    # DDP averages over processes, and each piece already weighs its share of the whole step.
                    self.accelerator.backward(loss.total * weight * world)
                    for part, value in {"loss": loss.total, **loss.parts}.items():
                        sums[part] = sums.get(part, 0.0) + value.detach().float() * weight
                    if (rest := loss.rest) is None:
                        break
                    del loss  # and with it the graph
                    loss = self.stepper(moved, rest)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        self._check_loss(values, epoch, number, step)
        # Hooks may draw: alike in all processes, and in a resumed fit.
        set_scoped_seed(derive_seed(self.seed, epoch, number, "hooks"), self.device)
        self._run(self.update)
        # Without clip_norm nothing is clipped, and the gradient is looked at all the same.
        limit = math.inf if self.options.clip_norm is None else self.options.clip_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        if self.trainer.precision != "fp16" and not torch.isfinite(norm):
            # fp16 overflows now and then by design: the scaler skips the step and halves the scale.
            raise self._diverged("the gradient is not finite", epoch, number, step)
        self.optimizer.step()
        with torch.no_grad():
            self._run(self.after_step)
        self.optimizer.zero_grad(set_to_none=True)
        self.result.steps += 1
        return values

    def _run(self, hooks: tuple[Hook, ...]) -> None:
        if hooks:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            for hook in hooks:
                hook(named)

    def _check_loss(self, values: dict[str, float], epoch: int, number: int, step: Step) -> None:
        if not all(math.isfinite(value) for value in values.values()):
            bad = ", ".join(part for part, value in values.items() if not math.isfinite(value))
            raise self._diverged(f"the loss is not finite ({bad})", epoch, number, step)
        if abs(values["loss"]) > self.options.max_loss:
            raise self._diverged(f"the loss has diverged to {values['loss']:.4g}", epoch, number, step)

    def _diverged(self, what: str, epoch: int, number: int, step: Step) -> TrainingError:
        positions = "; ".join(f"{stream} {list(indices)[:16]}" for stream, indices in step.items())
        self.trainer.log.event("diverged", fit=self.name, epoch=epoch, step=number, what=what)
        return TrainingError(
            f"{self.name}: {what} at epoch {epoch}, step {number} ({self.result.steps} steps done)",
            where=f"records at positions: {positions}",
            expected=f"a finite loss below max_loss = {self.options.max_loss:g}",
            fix="lower lr, set clip_norm, or look at these records; the last checkpoint is untouched",
        )

    def _validate(self, epoch: int) -> float:
        value = self._asked(self.validate, epoch)  # type: ignore[arg-type]  # only called when there is one
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.name}: validation gave {value} after epoch {epoch}",
                expected="a finite number",
                fix="lower lr or set clip_norm; the last checkpoint is untouched",
            )
        if value < self.best_value or self.result.best_epoch < 0:
            self.best_value, self.result.best_epoch = value, epoch
            if self.options.select == "best":
                self.best_state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        return value

    def _asked(self, question: Callable[[nn.Module, int], float], epoch: int) -> float:
        with preserved_mode(self.model), torch.no_grad():
            self.model.eval()
            value = float(question(self.model, epoch))
        if self.accelerator.num_processes > 1:  # all must choose and stop alike
            value = float(broadcast(torch.tensor(value, device=self.device)))
        return value

    def _stop_early(self, epoch: int) -> bool:
        patience = self.options.patience
        return patience is not None and epoch - self.result.best_epoch > patience

    def _save(self, position: tuple[int, int]) -> None:
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.checkpoint.save(
            {
                "position": list(position),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "best": [self.best_value, self.result.best_epoch, self.best_state],
                "epoch_sums": self.epoch_sums,
                "steps": self.result.steps,
                "history": self.result.history,
                "memory": self.memory.state_dict() if self.memory is not None else None,
                "kept": [one.state_dict() for one in self.kept],
                "done": self.done,
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        for one, kept in zip(self.kept, state["kept"], strict=True):
            one.load_state_dict(kept)
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.position = (state["position"][0], state["position"][1])
        self.best_value, self.result.best_epoch, self.best_state = state["best"]
        self.epoch_sums, self.result.steps = dict(state["epoch_sums"]), state["steps"]
        self.result.history, self.result.epochs = list(state["history"]), state["position"][0]
