"""Every kind of modality that a config may name says what :mod:`forgetmi.runs.prepare` asks of it."""

from __future__ import annotations

import pytest

from forgetmi.inputs import INPUTS


@pytest.mark.parametrize("name", list(INPUTS))
def test_each_kind_says_what_it_is_and_whether_it_learns_from_training_values(name):
    assert INPUTS[name].kind == name
    assert INPUTS[name].learns is (name in {"dialogue", "text", "tabular"})
