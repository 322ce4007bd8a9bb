"""Errors say what, where and what to do; patients are named to the reader and to no log."""

from __future__ import annotations

import copy
import pickle

import pytest

from forgetmi import errors
from forgetmi.errors import ConfigError, DataError, ForgetMIError, MissingDependencyError, did_you_mean

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, ForgetMIError)]


def example(kind: type[ForgetMIError]) -> ForgetMIError:
    if kind is ConfigError:
        return ConfigError(["a is wrong", "b is wrong"], where="run.yaml", fix="mend it")
    if kind is MissingDependencyError:
        return MissingDependencyError("Reading ECGs", "ecg")
    return kind("it broke", where="file:3", expected="whole", fix="mend it", private=["PATIENT-7", "PATIENT-8"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_survives_a_process_pool(kind, travel):
    error = example(kind)
    error.add_note("seen in worker 3")
    again = travel(error)
    assert type(again) is kind and str(again) == str(error) and again.public == error.public
    assert again.private == error.private and again.args == error.args
    assert again.__notes__ == ["seen in worker 3"]
    if kind is ConfigError:
        assert again.problems == ("a is wrong", "b is wrong")


def test_what_is_private_is_shown_to_the_reader_only():
    error = example(DataError)
    assert "PATIENT-7" in str(error) and "PATIENT-8" in str(error)
    for text in (error.public, repr(error), repr(error.args)):
        assert "PATIENT" not in text
    assert error.public.splitlines() == ["it broke", "  where: file:3", "  expected: whole", "  what to do: mend it"]


def test_empty_parts_take_no_line():
    assert str(DataError("it broke")) == "it broke"


def test_all_problems_stand_in_one_config_error():
    assert str(ConfigError(["a"])) == "1 setting is wrong:\n  - a"
    assert str(ConfigError(["a", "b"])) == "2 settings are wrong:\n  - a\n  - b"


def test_a_missing_dependency_names_its_extra_and_is_an_import_error():
    with pytest.raises(ImportError, match=r"pip install 'forgetmi\[ecg\]'"):
        raise MissingDependencyError("Reading ECGs", "ecg")


def test_suggestions():
    assert did_you_mean("forget_im", ["retrain", "forget_mi"]).startswith("Did you mean 'forget_mi'?")
    assert did_you_mean("xyz", ["b", "a"]) == "Available: a, b."
    assert did_you_mean("xyz", []) == "Available: none."
