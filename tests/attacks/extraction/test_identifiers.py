"""Where identifiers stand, and the spaces that alternatives are drawn from."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from forgetmi.attacks.extraction.identifiers import (
    IdentifierFormat,
    date_format_of,
    find_identifiers,
    identifiers_of,
    stands_in,
)
from forgetmi.errors import ConfigError, DataError

NOTE = (
    "MRN 004312, born 1961-03-09. Seen 3/14/2019; call (555) 010-7788 or +1 555-010-7789. SSN 078-05-1120, "
    "mail a.b+x@c.example.org. Record number: AB-99812. L4-5 disc, 1.5 x 2.3 cm, 120/80, 2019-03-14-07, v. 1.2.2019."
)


def test_identifiers_of_a_note_by_their_form() -> None:
    found = [(NOTE[span.start : span.end], span.kind) for span in find_identifiers(NOTE)]
    assert found == [
        ("004312", "mrn"),
        ("1961-03-09", "date"),
        ("3/14/2019", "date"),
        ("(555) 010-7788", "phone"),
        ("+1 555-010-7789", "phone"),
        ("078-05-1120", "ssn"),
        ("a.b+x@c.example.org", "email"),
        ("AB-99812", "mrn"),
        ("1.2.2019", "date"),
    ]
    assert [span.kind for span in find_identifiers(NOTE, ["ssn"])] == ["ssn"]
    with pytest.raises(ConfigError, match="Did you mean 'mrn'"):
        find_identifiers(NOTE, ["mrm"])


def test_the_first_place_counts_and_what_the_prompt_says_is_no_secret() -> None:
    value = {"prompt": "Record of 1961-03-09", "answer": "MRN 004312, MRN 004312, born 1961-03-09"}
    assert [(s.start, s.end) for s in identifiers_of(value)] == [(4, 10)]
    assert [s.kind for s in identifiers_of(value["answer"])] == ["mrn", "date"]


def test_identifiers_that_the_record_names() -> None:
    value = {"prompt": "p", "answer": "Jo Ko, MRN 004312", "identifiers": [{"text": "Jo Ko", "kind": "name"}]}
    assert [(s.start, s.end, s.kind) for s in identifiers_of(value)] == [(0, 5, "name")]
    with pytest.raises(DataError) as caught:
        identifiers_of({**value, "identifiers": [{"text": "Jo Kowalski", "kind": "name"}]})
    assert "Kowalski" not in str(caught.value)
    for wrong in ("Jo Ko", [{"text": "Jo Ko"}], ["Jo Ko"], {"text": "Jo Ko", "kind": "name"}):
        with pytest.raises(DataError):
            identifiers_of({**value, "identifiers": wrong})


def test_members_of_a_format_are_numbered() -> None:
    pattern = IdentifierFormat(pattern="A-{2d}{1u}")
    assert pattern.size == 2600
    assert (pattern.text(0), pattern.text(2599)) == ("A-00A", "A-99Z")
    assert len({pattern.text(n) for n in range(pattern.size)}) == pattern.size
    days = IdentifierFormat(dates=(date(2000, 2, 28), date(2000, 3, 1)), date_format="%d.%m.%Y")
    assert [days.text(n) for n in range(days.size)] == ["28.02.2000", "29.02.2000", "01.03.2000"]


def test_alternatives_are_the_others_each_once(tmp_path) -> None:
    digits = IdentifierFormat(pattern="{1d}")
    for count in (9, 100):
        assert digits.others("4", count, np.random.default_rng(0)) == list("012356789")
    drawn = digits.others("4", 5, np.random.default_rng(0))
    assert len(set(drawn)) == 5
    assert "4" not in drawn
    (tmp_path / "names.txt").write_text("Ann\n\nBob\nAnn\nCyd\n", encoding="utf-8")
    names = IdentifierFormat(names_file=tmp_path / "names.txt")
    assert names.others("Bob", 9, np.random.default_rng(0)) == ["Ann", "Cyd"]


def test_alternatives_have_equal_chances() -> None:
    digits = IdentifierFormat(pattern="{2d}")
    rng = np.random.default_rng(1)
    counts = np.zeros(100)
    for _ in range(400):
        counts[[int(other) for other in digits.others("44", 20, rng)]] += 1
    assert counts[44] == 0
    assert abs(np.delete(counts, 44) - 400 * 20 / 99).max() < 5 * np.sqrt(400 * 0.2 * 0.8)


def test_the_shape_of_a_text() -> None:
    assert IdentifierFormat.like("(555) 010-7788") == IdentifierFormat(pattern="({3d}) {3d}-{4d}")
    assert IdentifierFormat.like("Jo Ko") is None
    assert IdentifierFormat.like("{1}") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"pattern": "MRN"},
        {"pattern": "{6x}"},
        {"pattern": "{0d}"},
        {"pattern": "{40d}"},
        {"pattern": "{2d}", "names": ("a", "b")},
        {"names": ("a", "a")},
        {"dates": (date(2000, 1, 2), date(2000, 1, 1))},
    ],
)
def test_formats_that_are_none(wrong) -> None:
    with pytest.raises(ConfigError):
        IdentifierFormat(**wrong)


def test_days_in_digits() -> None:
    assert date_format_of("1961-03-09") == (date(1961, 3, 9), "%Y-%m-%d")
    assert date_format_of("03/09/1961") == (date(1961, 3, 9), "%m/%d/%Y")
    assert date_format_of("3/9/1961") is None
    assert date_format_of("1961-13-09") is None


def test_a_text_stands_in_another_as_words_of_its_own() -> None:
    assert stands_in("Jo  Ko", "seen: jo\nko, well")
    assert not stands_in("4312", "MRN 004312")
    assert stands_in("(555) 010", "call (555) 010.")
