"""A language model that knows its texts by heart forgets those it is asked to, and keeps the others better."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forgetmi.methods import build_method
from forgetmi.training.losses import task_objective
from forgetmi.training.options import FitOptions
from forgetmi.training.plans import ShuffledPlan
from tests.methods.lm import captured
from tests.tiny import language_case

FIT = {"epochs": 10, "batch_size": 3, "lr": 2e-3, "mode": "eval"}
METHODS = {
    "grad_diff": {},
    "kl_min": {},
    "npo": {"retain": "none"},
    "npo nll": {"retain": "nll"},
    "npo kl": {"retain": "kl"},
    "simnpo": {"gamma": 1.0},
    "dpo": {},
    "po": {},
    "wga": {},
    "tnpo": {},
    "satimp": {"gamma": 1.0, "beta1": 1.0},
    "undial": {},
    "ce_u": {"retain": "nll"},
    "pdu": {"price": 20.0, "step": 20.0, "epsilon": 0.5, "warmup": 1},
    "random_share": {"share": 0.5, "inner": "npo", "options": {"fit": FIT}},
}


@pytest.fixture(scope="module")
def memorised():
    lm = language_case()
    job = lm.job()
    recipe = FitOptions(epochs=60, batch_size=16, lr=1e-2, weight_decay=0.0, mode="eval")
    plan = ShuffledPlan(lm.loader, lm.partition.train, batch_size=16, seed=0, stream="train")
    job.trainer.fit(lm.model, plan, task_objective(lm.task, "train"), recipe, seed=0)
    assert max(known(lm, lm.model, part) for part in ("forget", "retain")) < 0.3
    return lm


def known(lm, model, part):
    """Nats a token."""
    with torch.no_grad():
        return lm.task.loss(model.eval(), lm.loader.batch(lm.partition.indices(part))).item()


@pytest.mark.parametrize("case", METHODS)
def test_what_is_to_be_forgotten_is_forgotten_more(case, memorised):
    options = METHODS[case] if case == "random_share" else {**METHODS[case], "fit": FIT}
    before = {part: known(memorised, memorised.model, part) for part in ("forget", "retain")}
    unlearned = build_method(case.split()[0], options).unlearn(memorised.job())
    rise = {part: known(memorised, unlearned, part) - before[part] for part in before}
    assert rise["forget"] > 0.5, rise
    assert rise["forget"] > 1.5 * rise["retain"], rise


def test_dpo_prefers_the_other_answers(memorised):
    unlearned = build_method("dpo", {"answers": "clinical", "fit": FIT}).unlearn(memorised.job())
    forget = memorised.partition.forget
    batch = memorised.loader.answered(forget, ["I have no report to refer to here."] * len(forget))
    own = memorised.loader.batch(forget)
    with torch.no_grad():
        ratios = [
            memorised.task.nll(memorised.model, some) - memorised.task.nll(unlearned.eval(), some)
            for some in (batch, own)
        ]
    assert (ratios[0] > ratios[1]).all()


def test_tokens_that_are_forgotten_already_pull_no_longer(memorised):
    """Ascent's gradient grows as a token is forgotten; those of the others fade, which is what they are for."""
    far = build_method("gradient_ascent", {"fit": {**FIT, "epochs": 40}}).unlearn(memorised.job())
    lm = language_case()
    norms = {}
    for when, model in (("before", memorised.model), ("after", far.eval())):
        lm.model = model
        job = replace(lm.job(), reference=memorised.job().reference)
        for name, options in {"grad_diff": {}, "npo": {"beta": 1.0}, "wga": {}, "tnpo": {}, "ce_u": {}}.items():
            found = captured(name, job, **{**options, "retain": "none"})
            norms[name, when] = sum(float(g.square().sum()) for g in found.gradients.values()) ** 0.5
    assert norms["grad_diff", "after"] > 0.5 * norms["grad_diff", "before"]
    for name in ("npo", "wga", "tnpo", "ce_u"):
        assert norms[name, "after"] < 0.05 * norms["grad_diff", "after"], norms
