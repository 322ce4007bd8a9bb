"""What every registered method must do, on a fusion classifier and on a language model alike."""

from __future__ import annotations

import ast
import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import forgetmi.methods
import forgetmi.parts
from forgetmi.errors import ConfigError, MethodError, TrainingError
from forgetmi.methods import METHODS, build_method, check_job
from forgetmi.training.options import FitOptions
from tests.tiny import (
    TinyCase,
    adapter_case,
    classifier_case,
    killed_after,
    language_case,
    request_a_class,
    same_state,
    state_of,
)

CASES = {"classification": classifier_case, "causal_lm": language_case, "causal_lm_lora": adapter_case}
FAST = {"epochs": 2, "batch_size": 4, "lr": 1e-2}
FITS: dict[str, dict[str, Any]] = {  # four steps in all where D_r is visited too
    name: {"batch_size": 13}
    for name in ("cf_k", "eu_k", "l1_sparse", "neg_grad_plus", "random_labels", "scrub", "scrub_r", "sisa")
}
# Options without which a method would be slow here, or would do nothing to so small a model.
OPTIONS: dict[str, dict[str, Any]] = {
    "fisher_forgetting/causal_lm": {"targets": "true"},
    "sisa": {"shards": 2},
    "ssd": {"alpha": 1.5},
    "multi_gan": {"gan": {"pairs": 4, "batch_size": 4, "width": 8, "latent": 4}},
    "ails": {"chunk": 4},
    "ails/classification": {"last_blocks": None},
    "grin": {"options": {"fit": FAST}},
    "guarded": {
        "options": {"fit": FAST},
        "rectify": "conflict",
        "smoothing": 0.2,
        "protect": 3,
        "noise": 1e-3,
        "chunks": 2,
    },
    "rum": {
        "methods": ["nothing", "npo", "gradient_ascent"],
        "options": {"npo": {"fit": FAST}, "gradient_ascent": {"fit": FAST}},
    },
    "sga": {"stop_below": None},
    "sure": {"options": {"fit": FAST}, "level": "row", "when": "step", "percentile": 50},
    "ta": {"stop_below": None},
    "tau": {"stop_below": None, "switch": 1.0},
    "whp": {"reinforce": {**FAST, "checkpoint_every": 1}},
    "zjuklab": {"lora": {"r": 2}},
    "salun": {"options": {"fit": {**FAST, "batch_size": 13}}},
    "unsir": {"noise_records": 4, "noise_steps": 2, "retain_records": 8},
    "salun/causal_lm": {"inner": "npo", "options": {"fit": FAST}},
}
BY_CLASS = {"unsir"}  # methods for requests that name a whole class
NO_DRAWS: set[str] = {
    "chip",
    "influence",
    "sisa",
    "ssd",
}  # methods in which nothing is drawn: other seeds give the same weights


@pytest.fixture(params=sorted(CASES))
def case(request) -> TinyCase:
    return CASES[request.param]()


@pytest.fixture(params=list(METHODS))
def name(request) -> str:
    return request.param


def has_fit(name: str) -> bool:
    return "fit" in METHODS[name].__dataclass_fields__


def fast_fit(name: str, **options: Any) -> dict[str, Any]:
    return {**(METHODS[name]().fit or FitOptions()).__dict__, **FAST, **FITS.get(name, {}), **options}


def method_for(name: str, case: TinyCase, **options):
    if has_fit(name):
        options.setdefault("fit", fast_fit(name))
    if name in BY_CLASS and case.kind == "classification":
        request_a_class(case)
    method = build_method(name, {**OPTIONS.get(name, {}), **OPTIONS.get(f"{name}/{case.kind}", {}), **options})
    try:
        check_job(method, case.job())
    except MethodError as refusal:
        if case.task.name not in str(refusal):  # it must say why
            raise
        pytest.skip(f"{name} refuses {case.kind}: {refusal}")
    return method


def test_same_seed_same_weights_other_seed_other_weights(name, case):
    method = method_for(name, case)
    first, again = method.unlearn(case.job(seed=1)), method.unlearn(case.job(seed=1))
    other = method.unlearn(case.job(seed=2))
    assert same_state(state_of(first), state_of(again))
    assert same_state(state_of(first), state_of(other)) == (name in NO_DRAWS)


def test_the_original_and_the_callers_random_state_are_untouched(name, case):
    method = method_for(name, case)
    before, flags = state_of(case.model), [m.training for m in case.model.modules()]
    torch.manual_seed(123)
    random_state = torch.get_rng_state()
    unlearned = method.unlearn(case.job())
    assert same_state(before, state_of(case.model)), "weights or buffers of the original moved"
    assert [m.training for m in case.model.modules()] == flags
    assert all(p.grad is None for p in case.model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    assert unlearned is not case.model
    assert not same_state(before, state_of(unlearned)), "the method did nothing"
    assert unlearned.training == case.model.training


def test_train_mode_of_the_original_is_found_again(name, case):
    method = method_for(name, case)
    case.model.train()
    unlearned = method.unlearn(case.job())
    assert all(m.training for m in case.model.modules())
    assert unlearned.training


def test_a_killed_run_resumes_bit_identically(name, case, tmp_path):
    """In the middle of an epoch, and in a later one."""
    kill_after = 3 if case.kind == "classification" else 1
    if name != "retrain" and not has_fit(name):
        pytest.skip(f"{name} takes no steps that could be resumed")
    method = method_for(name, case, **({} if name == "retrain" else {"fit": fast_fit(name, checkpoint_every=1)}))
    if name == "retrain":
        case.recipe = FitOptions(**{**case.recipe.__dict__, "checkpoint_every": 1})
    unbroken = method.unlearn(case.job(seed=3))
    with killed_after(kill_after):
        method.unlearn(case.job(seed=3, folder=tmp_path))
    job = case.job(seed=3, folder=tmp_path, resume=True)
    resumed = method.unlearn(job)
    started = [event for event in job.trainer.log.events if event["event"] == "fit_started"]
    assert (started[0]["epoch"], started[0]["step"]) != (0, 0), "it started again instead of resuming"
    assert same_state(state_of(unbroken), state_of(resumed))
    assert not list(tmp_path.glob(".*.part"))
    if name == "retrain":
        case.recipe = FitOptions(**{**case.recipe.__dict__, "lr": 5e-3})
    else:
        method = method_for(name, case, fit=fast_fit(name, checkpoint_every=1, lr=5e-3))
    with pytest.raises(TrainingError, match="another run"):
        method.unlearn(case.job(seed=3, folder=tmp_path, resume=True))


def test_unknown_options_are_refused_with_a_suggestion(name):
    with pytest.raises(ConfigError, match="unknown option 'fitt'"):
        build_method(name, {"fitt": {}})


def test_needs_nothing_that_it_was_not_given(name, case):
    """A method that says that it does not need the forget (or retain) records must not load them."""
    method = method_for(name, case)
    seen: set[int] = set()
    job = case.job()
    real_batch = job.loader.batch
    job.loader.batch = lambda indices: (seen.update(indices), real_batch(indices))[1]
    method.unlearn(job)
    if not method.needs.forget:
        assert not seen & set(case.partition.forget)
    if not method.needs.retain:
        assert not seen & set(case.partition.retain)
    assert not seen & set(case.partition.test), "the test split was used to unlearn"


def test_empty_retain_batches_and_all_missing_modalities_are_finite(name):
    case = classifier_case()
    method = method_for(name, case)
    unlearned = method.unlearn(case.job())
    assert all(torch.isfinite(t).all() for t in unlearned.state_dict().values() if t.is_floating_point())


def test_embedding_methods_refuse_a_language_model_and_say_why():
    with pytest.raises(MethodError, match=r"embeddings of each modality.*causal_lm"):
        build_method("forget_mi").unlearn(language_case().job())


def test_frozen_weights_stay_bit_identical_under_adamw_with_weight_decay(name, case):
    if name in {"retrain", "sisa"}:
        pytest.skip("retraining trains every weight by definition")
    method = method_for(name, case, **({"fit": fast_fit(name, weight_decay=0.5)} if has_fit(name) else {}))
    frozen = next(p for p in case.model.parameters() if p.ndim > 1)
    frozen.requires_grad_(False)
    key = next(k for k, p in case.model.named_parameters() if p is frozen)
    unlearned = method.unlearn(case.job())
    assert torch.equal(dict(unlearned.named_parameters())[key], frozen)


def test_limits_of_fine_tuning(case):
    original = state_of(case.model)
    for options in ({"lr": 0.0, "epochs": 1}, {"epochs": 0}):
        method = build_method("fine_tune", {"fit": {**options, "mode": "eval", "weight_decay": 0.0}})
        unlearned = method.unlearn(case.job())
        if case.lora is not None:
            unlearned = unlearned.without_adapter(merge=True)
        assert same_state(original, state_of(unlearned))


def test_retraining_is_training_without_the_forgotten(case):
    """Exactness: retraining equals training on a dataset that never held the forget records' content."""
    case.lora = None
    expected = build_method("retrain").unlearn(case.job(seed=5))
    changed = copy.deepcopy(case)
    for index in case.partition.forget:
        changed.loader._overrides = {**changed.loader._overrides, index: case.dataset[case.partition.retain[0]]}
    assert same_state(state_of(expected), state_of(build_method("retrain").unlearn(changed.job(seed=5))))


def test_methods_and_parts_know_no_modality_and_no_tokenizer():
    """No string literal or attribute of methods/ and parts/ names a modality's inputs."""
    banned = {"image", "text", "input_ids", "attention_mask", "token_type_ids", "tokenizer", "pixel_values", "film"}
    for package in (forgetmi.methods, forgetmi.parts):
        for path in Path(inspect.getfile(package)).parent.rglob("*.py"):
            tree = ast.parse(path.read_text())
            docstrings = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                    assert node.value not in banned, f"{path.name} names {node.value!r}"
                if isinstance(node, ast.Attribute):
                    assert node.attr not in banned, f"{path.name} uses .{node.attr}"
