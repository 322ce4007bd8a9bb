"""Multi-GAN: synthetic retain and forget records, labels of what is to be forgotten inverted, fine-tuning on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from forgetmi.batch import Batch
from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods.base import Needs, UnlearningJob, check_job, without_validation
from forgetmi.methods.random_labels import RandomLabels
from forgetmi.models.gan import GanPair, build_gan
from forgetmi.parts.objectives.gan import GanPlan, gan_objective
from forgetmi.parts.selection.inverted import Inversion, inverted_labels, likeliest_labels
from forgetmi.parts.selection.relabelled import RelabelledPlan, labels_of
from forgetmi.parts.selection.synthetic import (
    SYNTHETIC,
    MixedPlan,
    Space,
    SpaceName,
    Synthetic,
    answers,
    choose_space,
    joined,
    nearest,
    scale_of,
)
from forgetmi.training.losses import Loss
from forgetmi.training.modes import preserved_mode, scoring
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from forgetmi.training.seeds import derive_seed, torch_generator


@dataclass(frozen=True)
class GanOptions:
    """How a generator and its discriminator are built and trained.

    Attributes:
        pairs: turns of each of the two; 0 leaves them as they were drawn.
        batch_size: rows a turn.
        lr: of Adam. DCGAN: 2e-4.
        beta_1: of Adam. DCGAN: 0.5.
        latent: width of the noise. DCGAN: 100.
        width: feature maps, or hidden units.
    """

    pairs: int = 1000
    batch_size: int = 64
    lr: float = 2e-4
    beta_1: float = 0.5
    latent: int = 64
    width: int = 32

    def __post_init__(self) -> None:
        problems = [f"{n} must be at least 1" for n in ("batch_size", "latent", "width") if getattr(self, n) < 1]
        problems += [] if self.pairs >= 0 else ["pairs must be >= 0"]
        problems += [] if self.lr >= 0 else ["lr must be >= 0"]
        problems += [] if 0 <= self.beta_1 < 1 else ["beta_1 must be in [0, 1)"]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class MultiGAN:
    """Multi-GAN unlearning (Hatua et al., arXiv 2407.18467).

    Two generator/discriminator pairs, one trained on D_r and one on D_f, make S_r and S_f; the frozen original f_0
    labels both, y^(s) = argmax f_0(s); labels of S_f and D_f are inverted; and the original is fine-tuned on all::

        D_ft = D_r  u  (S_r, y^)  u  (S_f, inv(y^))  u  (D_f, inv(y));    min over theta of the mean loss on D_ft

    all shuffled together. Without synthetic records (``n_synth_retain = n_synth_forget = 0``) and with
    ``random_other`` it is ``random_labels`` with labels drawn once, exactly.

    The forget generator holds what is to be forgotten. When the fine-tuning is done both pairs and all samples are
    overwritten and let go, their checkpoints deleted, and the log says so.

    Our reading, as only the abstract could be read: what "invert" means; the networks; how many records are made; that
    D_r itself is in D_ft; and everything about multimodal records. The paper makes images. A record of several
    modalities is made here in one of three spaces: ``inputs`` (one modality's images or vectors; the record lacks the
    others), ``joint`` (the original's fused embedding; trains the head) or ``unimodal`` (the original's embedding of
    every modality, with a mask of those that are there, drawn from the real records'; trains fusion and heads).
    Synthetic rows pass through the model apart from real ones, and BatchNorm statistics are frozen by default.

    Attributes:
        inversion: see :func:`~forgetmi.parts.selection.inverted.inverted_labels`; drawn once.
        n_synth_retain, n_synth_forget: size of S_r and S_f; none means that of D_r and D_f.
        space: ``inputs``, ``joint``, ``unimodal`` or ``auto``
            (:func:`~forgetmi.parts.selection.synthetic.choose_space`).
        modality: of ``inputs``, where several have a generator.
        gan: both pairs' options.
        fit: the fine-tuning's.
    """

    inversion: Inversion = "random_other"
    n_synth_retain: int | None = None
    n_synth_forget: int | None = None
    space: SpaceName = "auto"
    modality: str | None = None
    gan: GanOptions = field(default_factory=GanOptions)
    fit: FitOptions = field(default_factory=lambda: FitOptions(epochs=3, lr=1e-4, mode="frozen_batchnorm"))

    name: ClassVar[str] = "multi_gan"
    paper: ClassVar[str] = "Multi-GAN (Hatua et al. 2024, arXiv 2407.18467; AIP Conf. Proc. 3220)"
    needs: ClassVar[Needs] = Needs(tasks=("classification",))

    def __post_init__(self) -> None:
        sizes = {"n_synth_retain": self.n_synth_retain, "n_synth_forget": self.n_synth_forget}
        problems = [f"{name} must be >= 0, not {n}" for name, n in sizes.items() if n is not None and n < 0]
        if self.modality is not None and self.space not in ("auto", "inputs"):
            problems.append(f"modality goes with space: inputs, not {self.space}")
        if problems := problems + without_validation(self.fit):
            raise ConfigError(problems)

    def unlearn(self, job: UnlearningJob) -> nn.Module:
        """The unlearned model. Nothing that was synthesised outlives the call."""
        check_job(self, job)
        model = job.copy_of_original()
        targets = self._inverted_targets(job)  # first: a rule that does not apply is refused before anything is trained
        space, made = self._synthesise(job, model)
        forget, retain, first = job.partition.forget, job.partition.retain, len(job.partition.dataset)
        synthetic = joined([part for _, part in made])
        positions = (*forget, *retain, *range(first, first + (0 if synthetic is None else len(synthetic))))
        visits = ShuffledPlan(job.fit_loader(), positions, batch_size=self.fit.batch_size, seed=job.order_seed("both"))
        plan = RelabelledPlan(visits, job.task, forget, lambda epoch: targets)

        def objective(model: nn.Module, batches: dict[str, Batch]) -> Loss:
            losses = []
            for stream, batch in batches.items():
                if stream == SYNTHETIC and space is not None:
                    rows, conditions = (cast(Tensor, batch.inputs[name]) for name in ("rows", "conditions"))
                    losses.append(space.loss(job.task, space.output(model, rows, conditions), batch))
                else:
                    losses.append(job.task.loss(model, batch))
            if len(losses) == 1:
                return Loss(losses[0], {})
            # No parts are logged: a process may have one kind of record while another has both.
            sizes = torch.tensor([len(batch) for batch in batches.values()], device=losses[0].device)
            return Loss((torch.stack(losses) * sizes).sum() / sizes.sum(), {})

        job.trainer.fit(
            model,
            plan if synthetic is None else MixedPlan(plan, synthetic, first),
            objective,
            self.fit,
            seed=job.seed,
            name=self.name,
            identity=job.identity(self),
        )
        self._destroy(job, made, synthetic)
        return model

    def _inverted_targets(self, job: UnlearningJob) -> Tensor:
        """inv(y) of the forget records, in their order."""
        loader, forget = job.fit_loader(), job.partition.forget
        outputs = [job.reference.output(batch.to(job.trainer.device)) for batch in loader.batches(forget, 64)]
        logits = torch.cat([output.logits.float().cpu() for output in outputs])
        # The same draw as that of random_labels, which this is where nothing is synthesised.
        generator = torch_generator(job.seed, RandomLabels.name, 0)
        return inverted_labels(self.inversion, job.task, labels_of(loader, forget), logits, generator)

    def _synthesise(self, job: UnlearningJob, model: nn.Module) -> tuple[Space | None, list[tuple[GanPair, Synthetic]]]:
        """Both pairs and what they make; the space is ``None`` where nothing is asked for."""
        counts = {"retain": self.n_synth_retain, "forget": self.n_synth_forget}
        sizes = {part: len(job.partition.indices(part)) if n is None else n for part, n in counts.items()}
        if not any(sizes.values()):
            return None, []
        space = choose_space(self.space, self.modality, job.fit_loader(), job.reference, job.partition.retain)
        made = [pair for part, n in sizes.items() if n and (pair := self._part(job, space, part, n)) is not None]
        if made and not _trains(space, model, made[0][1].batch([0]), job.trainer.device):
            raise MethodError(
                f"nothing that space: {space.name} trains may change: those weights are frozen",
                fix="choose another space, or unfreeze what comes after the encoders",
            )
        return space, made

    def _part(self, job: UnlearningJob, space: Space, part: str, n: int) -> tuple[GanPair, Synthetic] | None:
        """One pair, trained on the real records of one part and no others, and n records that it makes."""
        loader, indices = job.fit_loader(), job.partition.indices(part)
        real = space.rows(loader, indices)
        counts = {"part": part, "space": space.name, "real": len(real), "left_out": real.left_out}
        if not len(real):
            job.trainer.log.event("synthetic", **counts, made=0)
            return None
        mean, sd = scale_of(space, real)
        scaled = space.masked((real.values - mean) / sd, real.conditions)
        pair = self._train(job, part, scaled, real.conditions)
        generator = torch_generator(job.seed, self.name, part, "samples")
        conditions = real.conditions[torch.randint(len(real), (n,), generator=generator)]
        noise = torch.randn(n, self.gan.latent, generator=generator)
        drawn = space.masked(_sampled(pair, noise, conditions, job.trainer.device), conditions)
        rows = space.masked(drawn * sd + mean, conditions)
        logits = answers(space, job.reference, rows, conditions)
        labels = likeliest_labels(logits, labels_of(loader, indices[:1]))
        if part == "forget":
            labels = inverted_labels(self.inversion, job.task, labels, logits, generator)
        job.trainer.log.event(
            "synthetic",
            **counts,
            made=n,
            nearest_real_to_made=_summary(nearest(drawn, scaled)),
            nearest_real_to_real=_summary(nearest(scaled, scaled, same=True)),
        )
        return pair, Synthetic(rows, conditions, labels)

    def _train(self, job: UnlearningJob, part: str, rows: Tensor, conditions: Tensor) -> GanPair:
        seed = derive_seed(job.seed, self.name, part)
        pair = build_gan(
            rows.shape[1:], conditions=conditions.shape[1], latent=self.gan.latent, width=self.gan.width, seed=seed
        )
        plan = GanPlan(
            rows, conditions, pairs=self.gan.pairs, batch_size=self.gan.batch_size, latent=self.gan.latent, seed=seed
        )
        options = FitOptions(
            epochs=plan.epochs,
            lr=self.gan.lr,
            optimizer="adam",
            momentum=self.gan.beta_1,
            weight_decay=0.0,
            clip_norm=None,
            checkpoint_every=self.fit.checkpoint_every,
        )
        name = _fit_name(part)
        job.trainer.fit(pair, plan, gan_objective, options, seed=seed, name=name, identity=job.identity(self))
        return pair

    def _destroy(
        self, job: UnlearningJob, made: Sequence[tuple[GanPair, Synthetic]], synthetic: Synthetic | None
    ) -> None:
        """Overwrite the networks and the samples, delete the checkpoints, and say so."""
        samples = [part for _, part in made] + ([] if synthetic is None else [synthetic])
        with torch.no_grad():
            for pair, _ in made:
                for tensor in (*pair.parameters(), *pair.buffers()):
                    tensor.zero_()
            for part in samples:
                for tensor in (part.rows, part.conditions, part.labels):
                    tensor.zero_()
        deleted = [part for part in ("retain", "forget") if job.trainer.discard(_fit_name(part))]
        job.trainer.log.event(
            "synthetic_destroyed",
            generators=len(made),
            samples=sum(len(part) for _, part in made),
            checkpoints=deleted,
            note="both generators, both discriminators and all samples were overwritten with zeros and their "
            "checkpoints deleted; freed memory and the blocks of deleted files last until they are used again",
        )


def _fit_name(part: str) -> str:
    return f"{MultiGAN.name}-{part}"


def _sampled(pair: GanPair, noise: Tensor, conditions: Tensor, device: torch.device) -> Tensor:
    """What the generator makes of noise [N, latent]: [N, *shape], on the CPU."""
    with scoring(pair):
        made = [
            pair.generator(z.to(device), told.to(device)).float().cpu()
            for z, told in zip(noise.split(256), conditions.split(256), strict=True)
        ]
    return torch.cat(made).clone()  # made in inference mode: it could not enter autograd


def _trains(space: Space, model: nn.Module, batch: Batch, device: torch.device) -> bool:
    """Whether a loss on a synthetic record reaches any weight that may change."""
    rows, conditions = (cast(Tensor, batch.inputs[name]).to(device) for name in ("rows", "conditions"))
    with preserved_mode(model), torch.enable_grad():
        return space.output(model.eval(), rows, conditions).logits.requires_grad


def _summary(values: Tensor) -> dict[str, float]:
    """Least and median distance; nothing where there is no other record to be near to."""
    finite = values[values.isfinite()]
    return {"least": float(finite.min()), "median": float(finite.median())} if len(finite) else {}
