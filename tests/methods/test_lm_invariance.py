"""What changes nothing: padding, pieces of a step. Passes over the original; the price of PDU; a share; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.methods import build_method
from forgetmi.methods.pdu import PDU, Price
from forgetmi.tasks import causal_lm
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training.reference import Reference
from tests.methods.lm import captured, with_other_reference
from tests.tiny import (
    AnsweringTokens,
    classifier_case,
    killed_after,
    language_case,
    same_state,
    state_of,
    tiny_causal_lm,
)

METHODS = (
    "grad_diff", "kl_min", "npo", "simnpo", "dpo", "po", "wga", "tnpo", "satimp", "undial", "ce_u", "pdu",
)  # fmt: skip
OVER_RECORDS = {  # losses that are means over records: these may be cut into pieces
    "npo": {"retain": "kl"},
    "simnpo": {"retain": "kl"},
    "dpo": {"retain": "none"},
}
WITH_REFERENCE = {"npo": {}, "dpo": {}, "tnpo": {}, "npo kl": {"retain": "kl"}}


class Wide(AnsweringTokens):
    """Every batch is padded to twelve, on the left or the right, with an id that is a word."""

    def __init__(self, side):
        super().__init__(pad_id=5)
        self.side = side

    def collate(self, examples):
        made = super().collate(examples)
        width = made["input_ids"].shape[1]
        fill = {"input_ids": 5, "attention_mask": 0, "labels": -100}
        wide = {name: F.pad(tensor, (0, 12 - width), value=fill[name]) for name, tensor in made.items()}
        if self.side == "right":
            return wide
        shift = 12 - wide["attention_mask"].sum(dim=1, keepdim=True)
        source = (torch.arange(12) - shift) % 12
        moved = {name: tensor.gather(1, source) for name, tensor in wide.items()}
        return {**moved, "position_ids": (moved["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(name, side):
    lm = language_case()
    plain = captured(name, with_other_reference(lm.job()))
    lm.loader = Loader(lm.dataset, {"tokens": Wide(side)})
    padded = captured(name, with_other_reference(lm.job()))
    assert padded.batches["forget"].inputs["tokens"]["input_ids"].shape[1] == 12
    assert padded.loss.total.item() == pytest.approx(plain.loss.total.item(), rel=1e-5, abs=1e-5)
    assert all(torch.allclose(padded.gradients[k], plain.gradients[k], atol=2e-6) for k in plain.gradients)


@pytest.mark.parametrize("name", OVER_RECORDS)
def test_pieces_of_a_step_change_nothing_where_the_loss_is_a_mean_over_records(name):
    lm = language_case()
    fit = {"epochs": 2, "batch_size": 6, "optimizer": "sgd", "momentum": 0.0, "lr": 0.05, "mode": "eval"}
    models = [
        build_method(name, {**OVER_RECORDS[name], "fit": {**fit, "accumulate": pieces}}).unlearn(lm.job())
        for pieces in (1, 3)
    ]
    for whole, cut in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(whole, cut, atol=1e-6)


@pytest.mark.parametrize("case", WITH_REFERENCE)
def test_the_original_is_asked_about_each_forget_record_once(case):
    """Likelihoods are kept. Whole distributions are not: KL asks again about retain records, never about others."""
    lm = language_case()
    job, asked = replace(lm.job(), model=language_case().model), []
    job.reference.model.register_forward_pre_hook(
        lambda _m, _a, kw: asked.append(len(kw["input_ids"])), with_kwargs=True
    )
    fit = {"epochs": 4, "batch_size": 3, "lr": 1e-3}
    build_method(case.split()[0], {**WITH_REFERENCE[case], "fit": fit}).unlearn(job)
    once = len(lm.partition.forget)
    if case == "dpo":  # the refusals are drawn anew each epoch: one more for each new pair
        assert once < sum(asked) <= once + 4 * once
    else:
        assert sum(asked) == once + (4 * once if case.endswith("kl") else 0)


@pytest.mark.parametrize("name", ["grad_diff", "simnpo", "wga", "satimp", "ce_u", "pdu"])
def test_methods_without_a_reference_never_ask_the_original(name):
    """Published code of two of them keeps a copy of it all the same."""
    lm = language_case()
    job = lm.job()
    job.reference.model.register_forward_pre_hook(lambda *_: pytest.fail("the original was asked"))
    job = replace(job, model=language_case().model)
    build_method(name, {"fit": {"epochs": 1, "batch_size": 3}}).unlearn(job)


@pytest.mark.parametrize("name", ["undial", "ce_u"])
def test_without_a_retain_term_no_retain_record_goes_through_the_model(name):
    lm = language_case()
    job = lm.job()
    real, seen = job.loader.batch, set()
    job.loader.batch = lambda indices: (seen.update(indices), real(indices))[1]
    build_method(name, {"fit": {"epochs": 1, "batch_size": 3}}).unlearn(job)
    assert seen == set(lm.partition.forget)


def test_ce_u_forgets_short_answers_whole():
    """An answer of one token would be passed over, and its record with it."""
    lm = language_case()
    index = lm.partition.forget[0]
    ids = list(lm.dataset[index].value("tokens")["ids"])
    short = replace(lm.dataset[index], modalities={"tokens": {"ids": ids, "answer": len(ids) - 1}})
    lm.loader = lm.loader.restricted_to({i: replace(short, sample_id=f"x{i}") for i in lm.partition.forget})
    found = captured("ce_u", lm.job())
    assert found.loss.total.item() > 0
    assert captured("ce_u", lm.job(), skip=0).loss.total.item() == found.loss.total.item()


# PDU's price.


def test_the_price_rises_while_the_constraint_is_broken_and_falls_to_zero_when_it_is_not():
    price = Price(PDU(price=1.0, step=2.0, epsilon=0.5, every="step", warmup=1))
    price.begin(0)
    price.see({"retain": 9.0})
    assert price.value == 1.0, "it moves in no epoch of the warm-up"
    price.begin(1)
    price.see({"retain": 1.5})
    assert price.value == 1.0 + 2.0 * (1.5 - 0.5)
    price.see({"retain": 0.0})
    price.see({"retain": 0.0})
    price.see({"retain": 0.0})
    assert price.value == 0.0


def test_by_epoch_it_moves_by_the_mean_and_an_epoch_gone_on_with_counts_once():
    price = Price(PDU(price=1.0, step=2.0, epsilon=0.5, every="epoch", warmup=0))
    price.begin(0)
    price.see({"retain": 1.0})
    state = price.state_dict()
    resumed = Price(price.method)
    resumed.load_state_dict(state)
    for one in (price, resumed):
        one.begin(0)  # gone on with
        one.see({"retain": 3.0})
        assert one.value == 1.0
        one.begin(1)
        assert one.value == 1.0 + 2.0 * (2.0 - 0.5)


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_a_killed_run_goes_on_with_its_price(every, tmp_path):
    lm = language_case()
    fit = {"epochs": 4, "batch_size": 2, "lr": 1e-2, "checkpoint_every": 1}
    method = build_method("pdu", {"warmup": 1, "every": every, "fit": fit})
    unbroken = lm.job(seed=3)
    whole = method.unlearn(unbroken)
    with killed_after(8):
        method.unlearn(lm.job(seed=3, folder=tmp_path))
    job = lm.job(seed=3, folder=tmp_path, resume=True)
    assert same_state(state_of(whole), state_of(method.unlearn(job)))
    prices = [[e["value"] for e in j.trainer.log.events if e["event"] == "price"] for j in (unbroken, job)]
    assert prices[0] == prices[1] != [100.0]


def test_pieces_of_a_step_move_the_price_once():
    lm = language_case()
    fit = {"epochs": 3, "batch_size": 6, "lr": 0.0, "mode": "eval"}
    prices = []
    for pieces in (1, 2):
        job = lm.job()
        build_method("pdu", {"warmup": 0, "every": "step", "fit": {**fit, "accumulate": pieces}}).unlearn(job)
        prices += [e["value"] for e in job.trainer.log.events if e["event"] == "price"]
    assert prices[0] == pytest.approx(prices[1], rel=0.05)  # a mean over tokens is taken piece by piece


# The control.


def test_a_random_share_is_the_method_on_these_records():
    lm = language_case()
    fit = {"epochs": 2, "batch_size": 2, "lr": 1e-2}
    job = lm.job(seed=5)
    real, seen = job.loader.batch, set()
    job.loader.batch = lambda indices: (seen.update(indices), real(indices))[1]
    options = {"inner": "npo", "options": {"fit": fit}}
    few = build_method("random_share", {"share": 0.5, **options}).unlearn(job)
    (said,) = [event for event in job.trainer.log.events if event["event"] == "random_share"]
    assert (said["records"], said["of"]) == (3, 6)
    shown = seen & set(lm.partition.forget)
    assert len(shown) == 3
    rest = tuple(sorted({*lm.partition.forget} - shown))
    lm.partition = replace(lm.partition, forget=tuple(sorted(shown)), excluded=rest)
    assert same_state(state_of(few), state_of(build_method("npo", {"fit": fit}).unlearn(lm.job(seed=5))))


def test_all_of_it_is_the_method_itself_and_a_small_share_one_record():
    lm = language_case()
    fit = {"epochs": 1, "batch_size": 2, "lr": 1e-2}
    options = {"inner": "npo", "options": {"fit": fit}}
    whole = build_method("random_share", {"share": 1.0, **options}).unlearn(lm.job())
    assert same_state(state_of(whole), state_of(build_method("npo", {"fit": fit}).unlearn(lm.job())))
    job = lm.job()
    build_method("random_share", {"share": 0.01, **options}).unlearn(job)
    assert [e["records"] for e in job.trainer.log.events if e["event"] == "random_share"] == [1]


# Classifiers, and what is refused.


@pytest.mark.parametrize("name", ["wga", "tnpo", "satimp"])
def test_of_a_classifiers_labels_each_known_one_is_a_token(name):
    case = classifier_case()
    case.task = ClassificationTask(3, kind="multilabel")
    labels = torch.tensor([[1.0, 0.0, float("nan")], [float("nan"), 1.0, 0.0]])
    real = case.loader.batch

    def batch(indices):
        made = real(indices)
        return replace(made, labels=labels[torch.arange(len(indices)) % 2])

    case.loader.batch = batch
    found = captured(name, case.job())
    with torch.no_grad():
        nll, mask = case.task.token_nll(case.model, found.batches["forget"])
        whole = case.task.nll(case.model, found.batches["forget"])
    assert torch.equal(mask, ~found.batches["forget"].labels.isnan())
    assert torch.allclose(nll.sum(dim=1), whole)
    assert torch.isfinite(found.loss.total)


@pytest.mark.parametrize("name", ["undial", "ce_u", "pdu"])
def test_independent_labels_have_no_vocabulary(name):
    case = classifier_case()
    case.task = ClassificationTask(3, kind="multilabel")
    with pytest.raises(MethodError, match="one distribution over all of them"):
        captured(name, case.job())


@pytest.mark.parametrize("name", ["dpo", "flat", "po"])
def test_other_answers_need_a_language_model_and_records_that_bring_them(name):
    with pytest.raises(MethodError, match=r"cannot serve the task 'classification'"):
        build_method(name).unlearn(classifier_case().job())
    with pytest.raises(DataError, match="no alternative answer"):
        build_method(name, {"answers": "own"}).unlearn(language_case().job())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("npo", {"beta": 0, "gamma": -1}, ["beta must be > 0", "gamma must be >= 0"]),
        ("npo", {"retain": "klb"}, ["retain"]),
        ("npo", {"gamma": 0, "retain": "none"}, ["cannot both be 0"]),
        ("simnpo", {"beta": -1.0, "alpha": -1.0}, ["beta", "alpha"]),
        ("dpo", {"answers": "no_such.txt", "beta": 0}, ["no list of ours", "beta"]),
        ("po", {"answers": "clinicl", "gamma": -1}, ["Did you mean 'clinical'", "gamma must be >= 0"]),
        ("flat", {"answers": "clinicl", "gamma": -1}, ["Did you mean 'clinical'", "gamma must be >= 0"]),
        ("satimp", {"beta1": -1, "beta2": -1}, ["beta1", "beta2"]),
        ("tnpo", {"power": -1}, ["power"]),
        ("ce_u", {"skip": -1}, ["skip"]),
        ("undial", {"beta": -1, "fit": {"select": "best"}}, ["beta", "measures no validation"]),
        ("pdu", {"epsilon": -1, "price": -1, "step": 0, "warmup": -1}, ["epsilon", "price", "step", "warmup"]),
        ("random_share", {"share": 0, "inner": "retrain"}, ["share", "trains without the forget records"]),
        ("random_share", {"inner": "npoo"}, ["Did you mean 'npo'"]),
    ],
)
def test_everything_that_is_wrong_is_said_at_once(name, options, said):
    with pytest.raises(ConfigError) as refused:
        build_method(name, options)
    for text in said:
        assert text in str(refused.value)


@pytest.mark.parametrize("name", METHODS)
def test_streams_in_one_pass_are_streams_one_after_the_other(name, monkeypatch):
    """A packed model sees a step's records at once, but no more than so many tokens; the loss is the same."""
    found, passes = {}, {}
    for kind, packing, most in (("plain", False, 1024), ("joint", True, 1024), ("in turn", True, 0)):
        monkeypatch.setattr(causal_lm, "JOINT_TOKENS", most)
        lm = language_case()
        lm.model = tiny_causal_lm(packing=packing).eval()
        job = replace(lm.job(), reference=Reference(tiny_causal_lm(7).eval(), lm.task, torch.device("cpu")))
        seen = passes.setdefault(kind, [])
        copied = job.copy_of_original()
        copied.lm.base_model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        with monkeypatch.context() as patch:
            patch.setattr(type(job), "copy_of_original", lambda _, model=copied: model)
            found[kind] = captured(name, job)
    for kind in ("joint", "in turn"):
        assert found[kind].loss.total.item() == pytest.approx(found["plain"].loss.total.item(), rel=1e-5, abs=1e-5)
        assert all(torch.allclose(found[kind].gradients[k], g, atol=3e-6) for k, g in found["plain"].gradients.items())
    if name != "pdu":  # it makes its own sum
        assert len(passes["joint"]) == 1 <= len(passes["in turn"]) == len(passes["plain"])
