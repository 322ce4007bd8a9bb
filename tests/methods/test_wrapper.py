"""Methods around another one: what they refuse, and that they refuse what the other cannot do."""

from __future__ import annotations

import pytest

from forgetmi.errors import ConfigError, MethodError
from forgetmi.methods import METHODS, build_method, check_job
from forgetmi.methods.wrapper import Wrapper
from tests.tiny import classifier_case

# A wrong option of each one's own, and what it says.
WRONG = {
    "grin": ({"share": 2, "noise": -1}, ["share must be in [0, 1], not 2.0", "noise must be >= 0, not -1.0"]),
    "guarded": ({"chunks": 0}, ["chunks must be >= 1"]),
    "random_share": ({"share": 0}, ["share must be in (0, 1], not 0.0"]),
    "salun": ({"share": 2, "batch_size": 0}, ["share must be in [0, 1], not 2.0", "batch_size must be >= 1, not 0"]),
    "sure": ({"percentile": 101}, ["percentile must be in [0, 100], not 101.0"]),
}


def test_these_are_all_wrappers():
    assert {name for name in METHODS if issubclass(METHODS[name], Wrapper)} == set(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_own_options_the_method_and_its_options_are_refused_at_once(name):
    own, said = WRONG[name]
    with pytest.raises(ConfigError) as error:
        build_method(name, {**own, "inner": "npo", "options": {"beta": -1}})
    found = [problem.removeprefix(f"method {name}: ") for problem in error.value.problems]
    assert found == [*said, "method npo: beta must be > 0, not -1.0"]


@pytest.mark.parametrize("name", ["grin", "salun", "sure"])
def test_no_mask_over_retraining(name):
    with pytest.raises(ConfigError, match="inner: retraining starts from no weight of the original"):
        build_method(name, {"inner": "retrain"})


@pytest.mark.parametrize("inner", ["retrain", "sisa"])
def test_no_share_of_what_is_not_trained_on(inner):
    with pytest.raises(ConfigError, match=f"inner: {inner} trains without the forget records"):
        build_method("random_share", {"inner": inner})


@pytest.mark.parametrize("name", WRONG)
def test_what_the_wrapped_method_cannot_do_is_refused(name):
    wrapper = build_method(name, {"inner": "flat", "options": {"gamma": 2.0}})
    assert wrapper.wrapped() == build_method("flat", {"gamma": 2.0})
    with pytest.raises(MethodError, match="flat cannot serve the task 'classification'"):
        check_job(wrapper, classifier_case().job())
