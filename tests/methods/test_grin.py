"""GRIN: which weights it chooses, its limits, its noise, and that the rest does not move."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import ConfigError
from forgetmi.methods import build_method
from forgetmi.methods.base import UnlearningJob
from forgetmi.parts.edits.noise import noisy
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.updates.streamed import mean_gradient
from forgetmi.training.seeds import torch_generator
from tests.tiny import adapter_case, classifier_case, language_case, same_state, state_of

FIT = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "weight_decay": 0.5, "momentum": 0.9, "mode": "eval"}
CASES = [classifier_case, language_case]
ALL_RETAIN = 100


def grin(case, seed=1, fit=FIT, **options):
    return build_method("grin", {"options": {"fit": fit}, **options}).unlearn(case.job(seed=seed))


def gradient(case, indices):
    """By hand, record by record: of the mean negative log-likelihood of a token."""
    model, total, count = case.model.eval(), 0.0, 0
    for index in indices:
        values, mask = case.task.token_nll(model, case.loader.batch([index]))
        total, count = total + values.sum(), count + mask.sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total / count, parameters, materialize_grads=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_gradients_are_added_up_without_being_kept(make, size):
    """Of answers of unequal lengths; a mean over batches of means would depend on the batches."""
    case = make()
    model, forget = case.job().copy_of_original(), case.partition.forget
    device = case.job().trainer.device
    found = mean_gradient(model, case.task, case.loader, forget, batch_size=size, device=device)
    for name, expected in gradient(case, forget).items():
        assert torch.allclose(found[name], expected, atol=1e-6), name
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())
    assert same_state(state_of(model), state_of(case.model)) and not model.training


@pytest.mark.parametrize("make", CASES)
def test_of_no_weight_it_is_the_original(make):
    assert same_state(state_of(make().model), state_of(grin(make(), share=0.0, noise=1.0)))


@pytest.mark.parametrize("inner", ["npo", "grad_diff"])
@pytest.mark.parametrize("make", CASES)
def test_of_every_weight_without_noise_it_is_the_method(make, inner):
    alone = build_method(inner, {"fit": FIT}).unlearn(make().job(seed=1))
    options = {"share": 1.0, "noise": 0.0, "exclude": (), "inner": inner}
    assert same_state(state_of(alone), state_of(grin(make(), **options)))


def test_of_every_weight_with_noise_it_is_the_method_from_noisy_weights_with_the_originals_reference():
    case = language_case()
    start = case.job().copy_of_original()
    draw = torch_generator(1, "grin", "noise")
    with torch.no_grad():
        for p in start.parameters():
            p.copy_(noisy(p, torch.ones_like(p, dtype=torch.bool), 0.1, draw, relative=False))
    job = case.job(seed=1)
    expected = build_method("npo", {"fit": FIT}).unlearn(UnlearningJob(**{**vars(job), "start": start}))
    options = {"share": 1.0, "noise": 0.1, "relative": False, "exclude": ()}
    assert same_state(state_of(expected), state_of(grin(case, **options)))

    still = case.job(seed=1)
    fit = {**FIT, "lr": 0.0, "batch_size": 100, "epochs": 1}
    build_method("grin", {**options, "options": {"fit": fit, "retain": "none"}}).unlearn(still)
    batch = case.loader.batch(case.partition.forget)
    with torch.no_grad():
        loss = npo_loss(case.task.nll(start, batch), case.task.nll(case.model, batch), 0.1)
    (epoch,) = [event for event in still.trainer.log.events if event["event"] == "epoch"]
    assert epoch["forget"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("scope", ["all", "each"])
def test_what_moves_are_the_entries_with_the_largest_ratios(make, scope):
    """All others are bit-identical, under AdamW with momentum and weight decay."""
    case = make()
    model = grin(case, share=0.1, scope=scope, exclude=(), retain_records=ALL_RETAIN, epsilon=1e-3)
    forget, retain = gradient(case, case.partition.forget), gradient(case, case.partition.retain)
    scores = {name: forget[name].abs() / (retain[name].abs() + 1e-3) for name in forget}
    pooled = torch.cat([score.flatten() for score in scores.values()])
    chosen = 0
    for name, parameter in model.named_parameters():
        among = pooled if scope == "all" else scores[name].flatten()
        n = round(0.1 * len(among))
        bound = among.sort(descending=True).values[n - 1] if n else torch.inf
        moved = parameter != case.model.get_parameter(name)
        assert not (moved & (scores[name] < bound * (1 - 1e-3))).any(), name
        assert (moved | (scores[name] < bound * (1 + 1e-3)) | (scores[name] == 0)).all(), name
        chosen += int(moved.sum())
    assert chosen > 0.05 * len(pooled)


def test_embeddings_and_head_are_left_alone_and_the_log_has_the_shares():
    case = language_case()
    job = case.job(seed=1)
    model = build_method("grin", {"share": 0.2, "options": {"fit": FIT}}).unlearn(job)
    tables = ("transformer.wte.weight", "transformer.wpe.weight")
    assert all(torch.equal(model.get_parameter(name), case.model.get_parameter(name)) for name in tables)
    (event,) = [event for event in job.trainer.log.events if event["event"] == "mask"]
    shares = event["shares"]
    assert shares["transformer.wte"] == (0, 512) and shares["transformer.wpe"] == (0, 256)
    free = sum(p.numel() for name, p in case.model.named_parameters() if name not in tables)
    assert sum(chosen for chosen, _ in shares.values()) == round(0.2 * free)
    classifier = classifier_case()
    moved = grin(classifier, share=1.0, exclude=("head",))
    assert torch.equal(moved.get_parameter("head.weight"), classifier.model.get_parameter("head.weight"))


def test_what_only_the_forget_set_says_would_fill_the_mask():
    """The weakness of the ratio: an embedding that no retain record has scores |g_f| / epsilon."""
    case = language_case()
    forget, retain = gradient(case, case.partition.forget), gradient(case, case.partition.retain)
    only = (forget["transformer.wpe.weight"] != 0) & (retain["transformer.wpe.weight"] == 0)
    assert not only.any()  # positions are shared by all; to have such rows, one position is taken from the retain set
    longest = max(len(case.dataset[i].value("tokens")["ids"]) for i in case.partition.forget)
    short = [i for i in case.partition.retain if len(case.dataset[i].value("tokens")["ids"]) < longest]
    object.__setattr__(case.partition, "retain", tuple(short))
    model = grin(case, share=0.001, noise=1.0, exclude=(), retain_records=ALL_RETAIN, fit={**FIT, "epochs": 0})
    moved = model.get_parameter("transformer.wpe.weight") != case.model.get_parameter("transformer.wpe.weight")
    assert moved[longest - 2].any() and not moved[: longest - 2].any()


def test_noise_is_as_large_as_it_says_and_depends_on_the_seed():
    case, fit = language_case(), {**FIT, "epochs": 0}
    name = "transformer.h.0.mlp.c_fc.weight"
    before = case.model.get_parameter(name)
    for relative, size in ((False, 0.5), (True, 0.5 * before.std(correction=0).item())):
        model = grin(case, share=0.5, scope="each", noise=0.5, relative=relative, fit=fit)
        change = (model.get_parameter(name) - before).detach()
        drawn = change[change != 0]
        assert len(drawn) == round(0.5 * change.numel())
        assert drawn.std().item() == pytest.approx(size, rel=0.15) and abs(drawn.mean().item()) < 0.15 * size
    again, other = grin(case, noise=0.5, fit=fit), grin(case, seed=2, noise=0.5, fit=fit)
    assert same_state(state_of(again), state_of(grin(case, noise=0.5, fit=fit)))
    assert not same_state(state_of(again), state_of(other))


def test_controls_choose_as_many_weights_by_other_rules():
    case = language_case()

    def moved(score):
        model = grin(case, score=score, share=0.1, noise=1.0, relative=False, fit={**FIT, "epochs": 0})
        return torch.cat([(p != case.model.get_parameter(n)).flatten() for n, p in model.named_parameters()])

    masks = {score: moved(score) for score in ("ratio", "forget", "random")}
    assert len({int(mask.sum()) for mask in masks.values()}) == 1
    assert not any(torch.equal(masks["ratio"], masks[other]) for other in ("forget", "random"))


def test_in_an_adapter_the_rest_stays_the_originals():
    case = adapter_case()
    model = grin(case, share=0.3)
    assert same_state(state_of(model.without_adapter()), state_of(case.model))
    assert model.has_adapter and any(p.any() for n, p in model.named_parameters() if "lora_B" in n)


def test_wrong_options_are_refused_all_at_once():
    with pytest.raises(ConfigError, match=r"(?s)share.*epsilon.*noise.*batch_size.*unknown option 'x'"):
        build_method("grin", {"share": 2, "epsilon": -1, "noise": -1, "batch_size": 0, "options": {"x": 1}})
    with pytest.raises(ConfigError, match="nothing to mask"):
        build_method("grin", {"inner": "retrain"})
