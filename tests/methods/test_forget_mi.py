"""Forget-MI as a whole: what its specification asks of it, item by item (numbers as in the specification)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch

import forgetmi.methods.forget_mi as module
from forgetmi.errors import ConfigError, MethodError, RequestError
from forgetmi.methods import build_method
from forgetmi.parts.objectives.forget_mi import PRESETS
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.tasks.classification import ClassificationTask
from forgetmi.training import trainer as trainer_module
from forgetmi.training.seeds import derive_seed
from tests.tiny import N_CLASSES, classifier_case, same_state, state_of

ROOT = 1e-4  # sqrt(eps)
STILL = {"epochs": 1, "batch_size": 64, "lr": 0.0, "weight_decay": 0.0, "mode": "eval"}
SGD = {"epochs": 1, "batch_size": 64, "lr": 1e-3, "optimizer": "sgd", "weight_decay": 0.0, "mode": "eval"}
SILENT = {"image": {"sd": 0.0}, "text": {"level": 0.0}}
JOINTS = [{"joint": "model"}, {"joint": "gate"}]
ONLY = {name: {"uu": 0.0, "ur": 0.0, "mu": 0.0, "mr": 0.0, name: 1.0} for name in ("uu", "ur", "mu", "mr")}


def run(case=None, *, seed=0, **options):
    """(unlearned model, the fit's events)."""
    case = case or classifier_case()
    job = case.job(seed=seed)
    unlearned = build_method("forget_mi", options).unlearn(job)
    return unlearned, [e for e in job.trainer.log.events if e.get("fit") == "forget_mi"]


def epochs(events):
    return [e for e in events if e["event"] == "epoch"]


@pytest.mark.parametrize("joint", JOINTS)
def test_items_1_and_11_at_the_start_the_retention_losses_are_zero(joint):
    """With a gate of its own for each model, or dropout in one of them, L_MR would be 13 to 22 (row 11)."""
    case = classifier_case()
    case.model.train()  # the original's own mode must not matter
    for size in (64, 4):
        _, events = run(case, fit={**STILL, "batch_size": size}, **joint)
        start = epochs(events)[0]
        assert start["ur"] == pytest.approx(ROOT, rel=0.05) and start["mr"] == pytest.approx(ROOT, rel=0.05)
        assert start["uu"] > 0.1 and start["mu"] > 0.1  # the noise is seen


def furthest(model, other) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.fixture
def same_kernels():
    """Without a graph, torch's transformer layers take a faster path whose last bits differ; here they must not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("direction", ["attract_noisy", "repel"])
@pytest.mark.parametrize("how", [{"noise": SILENT}, {"preset": "no_noise"}])
def test_item_2_without_noise_all_losses_are_zero_and_nothing_moves(how, direction, joint, same_kernels):
    """Also item 9: were f and f~ not the same rows, the distances would not vanish.

    The gradient of sqrt(|d|^2 + eps) at d = 0 is exactly 0, so a preset without noise has nowhere to go: not a bit of
    the weights changes, even under Adam, as long as rounding does not tell the two models apart.
    """
    case = classifier_case()
    fit = {**STILL, "lr": 1e-2, "batch_size": 4}
    unlearned, events = run(case, fit=fit, direction=direction, **how, **joint)
    start, sign = epochs(events)[0], 1 if direction == "attract_noisy" else -1
    for part, value in {"uu": sign, "mu": sign, "ur": 1, "mr": 1}.items():
        assert value * start[part] == pytest.approx(ROOT, rel=1e-4)
    assert same_state(state_of(unlearned), state_of(case.model))


def noisy_distance(case, model, seed, part):
    """Mean over forget records of the distance to the original's embeddings of the first epoch's noisy input."""
    stream = derive_seed(seed, "forget_mi")
    clean = case.loader.batch(case.partition.forget)
    noisy = case.loader.noisy_batch(case.partition.forget, {}, seed=stream, epoch=0)
    with torch.no_grad():
        mine, target = model.eval()(clean), case.model.eval()(noisy)
    if part == "mu":
        return float((mine.joint - target.joint).norm(dim=1).mean())
    squares = [((mine.unimodal[name] - target.unimodal[name]) ** 2).sum(dim=1) for name in mine.unimodal]
    return float(torch.stack(squares).sum(dim=0).sqrt().mean())


@pytest.mark.parametrize("part", ["uu", "mu"])
@pytest.mark.parametrize("seed", range(3))
def test_item_3_one_step_towards_or_away_from_the_noisy_target(part, seed):
    case = classifier_case()
    before = noisy_distance(case, case.model, seed, part)
    _, events = run(case, seed=seed, fit=STILL)
    assert epochs(events)[0][part] == pytest.approx(before, rel=1e-4)
    for direction, sign in (("attract_noisy", 1), ("repel", -1)):
        unlearned, events = run(case, seed=seed, fit=SGD, direction=direction, weights=ONLY[part])
        assert [e["steps"] for e in events if e["event"] == "fit_finished"] == [1]
        after = noisy_distance(case, unlearned, seed, part)
        assert sign * (before - after) > 1e-5, f"{direction}: {before} -> {after}"


@pytest.mark.parametrize("part", ["ur", "mr"])
def test_retention_alone_keeps_the_original(part, same_kernels):
    case = classifier_case()
    kept, _ = run(case, fit={**STILL, "lr": 1e-2}, weights=ONLY[part])
    assert same_state(state_of(kept), state_of(case.model))


def test_retention_pulls_back():
    """Many epochs away from the noise: the more retention weighs, the closer retain embeddings stay."""
    case, ends = classifier_case(), []
    for preset in ("unimodal", "retention"):
        fit = {**SGD, "epochs": 8, "lr": 2e-2}
        _, events = run(case, fit=fit, preset=preset, direction="repel", repel_cap=3.0)
        ends.append(epochs(events)[-1]["mr"])
    assert ends[1] < ends[0]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_item_4_the_loss_is_the_weighted_sum_of_the_logged_parts(preset):
    _, events = run(fit=STILL, preset=preset)
    end, weights = epochs(events)[0], PRESETS[preset].weights
    assert end["loss"] == pytest.approx(sum(getattr(weights, p) * end[p] for p in ("uu", "ur", "mu", "mr")), rel=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_item_6_and_row_16_weights_and_buffers_of_the_original_stay(mode):
    case = classifier_case()
    case.model.train()
    before = state_of(case.model)
    unlearned, _ = run(case, fit={**SGD, "epochs": 2, "mode": mode})
    assert same_state(before, state_of(case.model))
    moved = [k for k, v in state_of(unlearned).items() if "running" in k and not torch.equal(v, before[k])]
    assert bool(moved) == (mode == "train"), "eval mode keeps BatchNorm as it was"


def test_item_7_one_step_a_batch_from_epoch_0_and_the_losses_do_not_depend_on_the_batch_size():
    """6 forget records: 2 steps of 4 and 2, an epoch."""
    for size, steps in ((4, 2), (1, 6), (64, 1)):
        _, events = run(fit={**SGD, "epochs": 3, "batch_size": size})
        assert events[-1]["steps"] == 3 * steps and len(epochs(events)) == 3
    ends = [epochs(run(fit={**STILL, "batch_size": size})[1])[0] for size in (1, 4, 64)]
    for part in ("loss", "uu", "mu"):
        assert [end[part] for end in ends] == pytest.approx([ends[0][part]] * 3, rel=1e-4)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_pieces_makes_the_same_weights(accumulate):
    """Retention weighs nothing here: next to 0 its distance turns rounding into direction."""
    options = {"epochs": 2, "batch_size": 4, "lr": 1e-2}
    weights = {"uu": 1.0, "mu": 1.0, "ur": 0.0, "mr": 0.0}
    whole, _ = run(fit={**SGD, **options}, weights=weights)
    pieces, _ = run(fit={**SGD, **options, "accumulate": accumulate}, weights=weights)
    assert furthest(whole, pieces) < 1e-6 < 1e-3 < furthest(whole, classifier_case().model)


# The gate


@pytest.fixture
def gates(monkeypatch):
    """Every gate that the method builds, and whether its weights moved while the model was unlearned."""
    made = []

    class Watched(module.AdaptationGate):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(module, "AdaptationGate", Watched)
    return made


def test_item_5_one_gate_for_both_models_fixed_and_in_no_optimiser(gates, monkeypatch):
    calls, real = [], module.AdaptationGate.forward
    monkeypatch.setattr(
        module.AdaptationGate, "forward", lambda self, *a: (calls.append((id(self), self.training)), real(self, *a))[1]
    )
    optimised = []
    build = trainer_module.build_optimizer
    monkeypatch.setattr(
        trainer_module, "build_optimizer", lambda m, o: (optimised.extend(m.parameters()), build(m, o))[1]
    )
    case = classifier_case()
    run(case, joint="gate", fit={**SGD, "epochs": 2, "batch_size": 4})
    assert len(gates) == 1, "row 11: a new gate"
    # Two models, forget and retain: four calls a step, all of the one gate in eval mode.
    assert len(calls) == 4 * 4 and set(calls) == {(id(gates[0]), False)}
    assert not {id(p) for p in gates[0].parameters()} & {id(p) for p in optimised}
    assert all(not p.requires_grad and p.grad is None for p in gates[0].parameters())


def test_the_gate_follows_the_seed(gates):
    for seed in (1, 1, 2):
        run(seed=seed, joint="gate", fit=STILL)
    first, again, other = map(state_of, gates)
    assert same_state(first, again) and not same_state(first, other)


def test_a_gate_trained_on_retain_moves_before_and_not_while_the_model_is_unlearned(gates):
    training = {"gate_training": "retain", "gate_fit": {"epochs": 2, "batch_size": 8}}
    states = []
    for fit in (STILL, {**SGD, "epochs": 3, "lr": 0.05}):
        run(joint="gate", fit=fit, **training)
        states.append(state_of(gates[-1]))
    run(joint="gate", fit=STILL)
    assert same_state(states[0], states[1]), "unlearning moved the gate"
    assert not same_state(states[0], state_of(gates[-1])), "the gate was not trained"


def test_a_trained_gate_saw_no_forget_record(gates):
    """Its weights are the same, bit for bit, when the forget records hold something else."""
    training = {"joint": "gate", "gate_training": "retain", "gate_fit": {"epochs": 1, "batch_size": 8}, "fit": STILL}
    run(**training)
    changed = classifier_case()
    other = changed.dataset[changed.partition.retain[0]]
    changed.loader = changed.loader.restricted_to(dict.fromkeys(changed.partition.forget, other))
    run(changed, **training)
    assert same_state(*map(state_of, gates))


# What is asked of whom


@dataclass(frozen=True)
class Watching(ClassificationTask):
    """Notes which model was shown which records with which modalities."""

    seen: list = field(default_factory=list)
    name: ClassVar[str] = "classification"

    def output(self, model, batch):
        shown = {name: mask.tolist() for name, mask in batch.present.items()}
        self.seen.append((model, batch.indices.tolist(), shown, torch.is_inference_mode_enabled(), model.training))
        return super().output(model, batch)


def watched(case):
    case.task = Watching(N_CLASSES)
    return case.task.seen


def test_the_original_is_asked_in_eval_mode_and_computes_each_retain_record_once():
    case = classifier_case()
    seen = watched(case)
    run(case, fit={**SGD, "epochs": 6, "batch_size": 4})
    asked = [(indices, inference, training) for model, indices, _, inference, training in seen if model is case.model]
    assert all(inference and not training for _, inference, training in asked)
    rows = [i for indices, _, _ in asked[1:] for i in indices]  # the first call only looks at the shapes
    forget, retain = set(case.partition.forget), set(case.partition.retain)
    kept = [i for i in rows if i in retain]
    assert len(kept) == len(set(kept)), "a retain record went through the original twice"
    assert sum(i in forget for i in rows) == 6 * len(forget), "noise is fresh, so its targets are too"


def test_no_test_record_and_nothing_of_the_retrained_model_is_used_to_choose():
    case = classifier_case()
    seen = watched(case)
    loaded: set[int] = set()
    real = case.loader._assemble
    case.loader._assemble = lambda indices, columns: (loaded.update(indices), real(indices, columns))[1]

    def forbidden(seed):
        raise AssertionError("the retrained model is not to be had")

    case.build = forbidden
    _, events = run(case, select="validation", fit={**SGD, "epochs": 4, "lr": 0.05})
    used = loaded | {i for _, indices, *_ in seen for i in indices}
    assert used & set(case.partition.validation) and not used & set(case.partition.test)
    gaps = [e["validation"] for e in epochs(events)]
    assert len(gaps) == 4 and events[-1]["best_epoch"] == gaps.index(min(gaps))
    assert not any(e.get("validation") for e in epochs(run(select="last", fit=SGD)[1]))


def test_choosing_by_validation_needs_validation_records():
    case = classifier_case()
    case.partition = replace(case.partition, validation=())
    with pytest.raises(MethodError, match="there are none"):
        run(case, select="validation", fit=SGD)


@pytest.mark.parametrize("modality", ["film", "note"])
def test_a_request_for_one_modality_shows_only_that_one_of_the_forget_records(modality):
    case = classifier_case()
    patients = [p for p in ("p00", "p03", "p07") if all(
        r.modalities[modality] is not None for r in case.dataset if r.patient_id == p)]  # fmt: skip
    case.partition = resolve(case.dataset, ForgetRequest.of("modality", patients, [modality], id_level="patient"))
    seen = watched(case)
    unlearned, events = run(case, fit={**SGD, "epochs": 2, "batch_size": 4, "lr": 0.05})
    other = {"film": "note", "note": "film"}[modality]
    forget, shown = set(case.partition.forget), {"original": 0, "unlearned": 0}
    for model, indices, present, *_ in seen:
        for row, index in enumerate(indices):
            if index in forget:
                assert present[modality][row] and not present[other][row]
                shown["original" if model is case.model else "unlearned"] += 1
    assert shown == {"original": 2 * len(forget), "unlearned": 2 * len(forget)}
    assert any(all(present[m][r] for m in present) for _, i, present, *_ in seen for r in range(len(i)))
    assert math.isfinite(epochs(events)[-1]["loss"]) and not same_state(state_of(unlearned), state_of(case.model))


def test_a_record_without_any_modality_is_finite():
    case = classifier_case()
    empty = case.dataset[case.partition.forget[0]].keep_only([])
    case.loader = case.loader.restricted_to({case.partition.forget[0]: empty})
    for joint in JOINTS:
        unlearned, _ = run(case, fit={**SGD, "epochs": 2, "batch_size": 1}, **joint)
        assert all(p.isfinite().all() for p in unlearned.parameters())


def test_fewer_retain_than_forget_records():
    case = classifier_case()
    kept = case.partition.retain[:2]
    case.partition = replace(case.partition, retain=kept, excluded=case.partition.retain[2:])
    unlearned, events = run(case, fit={**SGD, "epochs": 2, "batch_size": 4, "lr": 0.05})
    assert events[-1]["steps"] == 4 and not same_state(state_of(unlearned), state_of(case.model))


# Which models


@pytest.mark.parametrize("fusion", ["late", "gate", "cross_attention", "outer"])
@pytest.mark.parametrize("heads", ["fused", "both"])
@pytest.mark.parametrize("joint", JOINTS)
def test_every_fusion(fusion, heads, joint):
    case = classifier_case(fusion=fusion, heads=heads)
    unlearned, events = run(case, fit={**SGD, "epochs": 1, "batch_size": 4}, **joint)
    end = epochs(events)[0]
    assert all(math.isfinite(end[p]) for p in ("uu", "ur", "mu", "mr")) and end["mu"] > 0.01
    assert not same_state(state_of(unlearned), state_of(case.model))


def test_heads_per_modality_have_no_joint_embedding_and_take_the_gate():
    case = classifier_case(fusion=None, heads="per_modality")
    with pytest.raises(MethodError, match="this model fuses nothing") as caught:
        run(case, joint="model", fit=SGD)
    assert "joint: gate" in caught.value.fix
    for training in ("none", "retain"):
        unlearned, _ = run(case, joint="gate", gate_training=training, fit=SGD, gate_fit={"epochs": 1})
        assert not same_state(state_of(unlearned), state_of(case.model))


# What is refused


def test_every_wrong_option_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        build_method(
            "forget_mi",
            {
                "eps": 0.0, "gate_beta": -1.0, "repel_cap": 2.0, "gate_training": "retain",
                "fit": {"select": "best", "patience": 2}, "gate_fit": {"select": "best"},
            },
        )  # fmt: skip
    said = str(caught.value)
    for word in ("eps", "gate_beta", "repel_cap", "joint: gate", "select: validation", "fit.patience", "gate_fit"):
        assert word in said
    assert len(caught.value.problems) == 7
    with pytest.raises(ConfigError) as caught:
        build_method("forget_mi", {"preset": "loud", "direction": "up", "weigths": {}, "fit": {"epochs": -1, "lrr": 1}})
    assert len(caught.value.problems) == 5


def test_item_11_a_patient_on_both_sides_is_refused():
    case = classifier_case()
    partition = case.partition
    sibling = next(i for i in partition.forget if i not in partition.forget[:1])
    object.__setattr__(partition, "retain", (*partition.retain, sibling))  # as a bug might
    object.__setattr__(partition, "forget", partition.forget[:1])
    with pytest.raises(RequestError, match="stands in forget and in retain"):
        run(case, fit=SGD)


def test_noise_options_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="unknown option 'sigma'"):
        run(noise={"image": {"sigma": 0.1}}, fit=SGD)
