"""Options from mappings: nested ones keep their owner's defaults, and nothing unknown slips through."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from forgetmi.errors import ConfigError
from forgetmi.options import build_options, first_paragraph, nested_options


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: int = 2

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ConfigError([f"a must be >= 0, not {self.a}"])


@dataclass(frozen=True)
class Outer:
    need: Inner
    fit: Inner = field(default_factory=lambda: Inner(a=10, b=20))
    maybe: Inner | None = None
    x: float = 0.5


def test_a_nested_mapping_keeps_what_the_outer_class_gives():
    built = build_options(Outer, {"need": {}, "fit": {"b": 5}, "maybe": {"b": 7}}, where="o")
    assert built == Outer(need=Inner(), fit=Inner(a=10, b=5), maybe=Inner(a=1, b=7))


def test_an_object_may_be_given_as_it_is():
    assert build_options(Outer, {"need": Inner(3)}, where="o").need == Inner(3)


def test_every_problem_at_every_depth_and_none_twice():
    with pytest.raises(ConfigError) as caught:
        build_options(Outer, {"need": {"c": 1}, "fit": {"a": -1}, "maybe": {"a": "x"}, "x": "y", "z": 1}, where="o")
    assert len(caught.value.problems) == 5
    starts = ("o: unknown option 'z'", "o.need: unknown option 'c'", "o.fit: a must be", "o.maybe.a:", "o.x:")
    assert all(any(p.startswith(start) for p in caught.value.problems) for start in starts)


def test_a_required_option_that_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        build_options(Outer, {}, where="o")
    assert caught.value.problems == ("o: option 'need' is required",)


@pytest.mark.parametrize("values", [None, [], "x: 1", 3])
def test_what_is_no_mapping_is_refused(values):
    with pytest.raises(ConfigError, match="o: options are a mapping"):
        build_options(Outer, values, where="o")


def test_nested_options_are_found_through_none():
    assert nested_options(Outer) == {"need": Inner, "fit": Inner, "maybe": Inner}


def test_the_first_paragraph_of_a_docstring_is_one_plain_line():
    class Documented:
        """Does as :func:`~forgetmi.files.write_text` and
        :class:`Other` do, with ``extra``.

        More.
        """

    assert first_paragraph(Documented) == "Does as write_text and Other do, with extra."
    Documented.__doc__ = None
    assert first_paragraph(Documented) == ""
