"""What a method minimises at its first step, taken from its own objective."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from forgetmi.methods import build_method
from forgetmi.training.modes import set_fit_mode
from forgetmi.training.reference import Reference
from forgetmi.training.trainer import FitResult, Trainer
from tests.tiny import tiny_gpt2

EVERY_RECORD = {"batch_size": 1000, "mode": "eval", "epochs": 1}


class Captured(Trainer):
    """A trainer that takes no step: it keeps the first step's batches, loss and gradients."""

    def fit(self, model, plan, objective, options, **_):
        set_fit_mode(model, options.mode)
        self.batches = plan.load(plan.steps(0)[0], 0)
        self.loss = objective(model, self.batches).whole()
        parameters = dict(model.named_parameters())
        found = torch.autograd.grad(
            self.loss.total, list(parameters.values()), materialize_grads=True, allow_unused=True
        )
        self.gradients = dict(zip(parameters, found, strict=True))
        return FitResult()


def captured(name, job, **options):
    """The trainer after the first step of a method, all records in one batch, without dropout."""
    trainer = Captured(device="cpu", progress=False)
    method = build_method(name, {**options, "fit": {**EVERY_RECORD, **options.pop("fit", {})}})
    method.unlearn(replace(job, trainer=trainer))
    return trainer


def with_other_reference(job):
    """The job, with a reference that is another model than the one that is unlearned: losses are not at their start."""
    return replace(job, reference=Reference(tiny_gpt2(7).eval(), job.task, job.trainer.device))


class Answers:
    """A model's and its reference's log-probabilities of a batch, record by record, from raw logits alone.

    Attributes:
        log_p, log_q, z, z_0: lists of [n, V] over each record's answer tokens.
        y: lists of [n] true tokens.
    """

    def __init__(self, batch, model, reference=None):
        tokens = batch.inputs["tokens"]
        self.z, self.z_0, self.y = [], [], []
        for row in range(len(batch)):
            length = int(tokens["attention_mask"][row].sum())
            ids, labels = tokens["input_ids"][row : row + 1, :length], tokens["labels"][row, :length]
            places = [t for t in range(1, length) if labels[t] != -100]
            before = [t - 1 for t in places]
            self.y.append(labels[places])
            self.z.append(model(input_ids=ids).logits[0, before])
            if reference is not None:
                with torch.no_grad():
                    self.z_0.append(reference(input_ids=ids).logits[0, before])
        self.log_p, self.log_q = ([z.log_softmax(-1) for z in zs] for zs in (self.z, self.z_0))

    def nll(self, which="log_p"):
        """Lists of [n]."""
        return [-rows[torch.arange(len(y)), y] for rows, y in zip(getattr(self, which), self.y, strict=True)]

    def sums(self, which="log_p"):
        return torch.stack([values.sum() for values in self.nll(which)])

    def means(self):
        return torch.stack([values.mean() for values in self.nll()])

    def token_mean(self, values=None):
        return torch.cat(self.nll() if values is None else values).mean()

    def kl(self):
        """The mean over records of the mean over tokens of KL(reference || model)."""
        pairs = zip(self.log_p, self.log_q, strict=True)
        return torch.stack([F.kl_div(p, q, log_target=True, reduction="sum") / len(p) for p, q in pairs]).mean()

    def one_hot(self):
        return [F.one_hot(y, z.shape[-1]).to(z) for y, z in zip(self.y, self.z, strict=True)]
