"""A file of signals: what it may look like, what is refused and how, and that nobody's id leaves the reader."""

from __future__ import annotations

import gzip
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.attacks.membership import signals
from forgetmi.audit.signals_file import read_signals
from forgetmi.errors import ConfigError, DataError
from tests.audit.signal_files import ALL_PARTS, as_kind, frame, true_loss

SMALL = {"member": 4, "nonmember": 6}


def written(folder, table, name="signals.csv", **style):
    path = folder / name
    table.to_csv(path, index=False, **style)
    return path


def refused(path, **options):
    """The error's public and private text; no id may stand in the public one."""
    with pytest.raises(DataError) as caught:
        read_signals(path, **options)
    assert "SECRET" not in caught.value.public
    return caught.value.public, str(caught.value)


def same(first, second):
    for model, parts in first.values.items():
        for part, values in parts.items():
            np.testing.assert_allclose(values, second.values[model][part], rtol=1e-9)
            np.testing.assert_array_equal(first.parts[part].patients, second.parts[part].patients)


STYLES = {
    "semicolons and decimal commas": {"sep": ";", "decimal": ","},
    "decimal commas in quoted cells": {"decimal": ",", "quoting": 2},
    "tabs": {"sep": "\t"},
    "a byte order mark, CRLF": {"encoding": "utf-8-sig", "lineterminator": "\r\n"},
    "scientific numbers": {"float_format": "%.15e"},
}


@pytest.mark.parametrize("style", STYLES)
def test_dialects_read_alike(tmp_path, style):
    table = frame(("original", "unlearned"), SMALL)
    plain = read_signals(written(tmp_path, table))
    other = read_signals(written(tmp_path, table, "other.csv", **STYLES[style]))
    same(plain, other)
    assert ("numbers have decimal commas" in other.notes) == ("comma" in style)


def test_what_r_sas_and_a_spreadsheet_write(tmp_path):
    table = frame(("original", "unlearned"), SMALL)
    plain = read_signals(written(tmp_path, table))
    r = table.assign(seen="NA", model=table["model"].str.title())
    r.to_csv(tmp_path / "r.csv", index=True, index_label="", quoting=2)  # row names, everything quoted
    sas = table.rename(columns=str.upper).assign(SEEN=".")
    (tmp_path / "sas.csv.gz").write_bytes(gzip.compress(sas.to_csv(index=False).encode()))
    commented = tmp_path / "commented.csv"
    commented.write_text("# made by hand; not real\n#\n\n" + table.to_csv(index=False))
    for name in ("r.csv", "sas.csv.gz", "commented.csv"):
        same(plain, read_signals(tmp_path / name))


def test_the_order_of_rows_and_columns_and_the_ids_order_change_nothing(tmp_path):
    table = frame(("original", "retrained-1", "retrained-2", "unlearned"), ALL_PARTS, records=2, views=2)
    plain = read_signals(written(tmp_path, table))
    mixed = table.sample(frac=1.0, random_state=3)[list(table.columns[::-1])]
    same(plain, read_signals(written(tmp_path, mixed, "mixed.csv")))
    assert plain.n_queries == 2
    assert plain.references("retrained") == ["retrained-1", "retrained-2"]
    # codes are arbitrary: not those of the sorted ids
    assert np.any(np.diff(np.unique(plain.parts["forget"].patients)) > 1)


@pytest.mark.parametrize("kind", ["probabilities", "logits", "loss", "phi", "correct"])
def test_signals_are_those_of_the_definitions(tmp_path, kind):
    table = frame(("original", "unlearned"), SMALL)
    read = read_signals(written(tmp_path, as_kind(table, kind)))
    own = table[(table["model"] == "unlearned") & (table["part"] == "member")]
    p = own[["p_0", "p_1", "p_2"]].to_numpy()
    found = read.signals("unlearned", "forget")
    expected = {
        "loss": true_loss(own),
        "scaled_logit": np.log(np.exp(-true_loss(own)) / (1 - np.exp(-true_loss(own)))),
        "entropy": -(p * np.log(p)).sum(axis=1),
        "modified_entropy": signals.modified_entropy(np.log(p), own["label"].to_numpy()),
        "correct": p.argmax(axis=1) == own["label"],
    }
    names = {"probabilities": 4, "logits": 4, "loss": 2, "phi": 2, "correct": 1}
    assert len(found) == names[kind]
    for name, values in found.items():
        np.testing.assert_allclose(np.sort(values), np.sort(expected[name]), rtol=1e-7, err_msg=name)


def test_any_loss_of_a_record_works_and_one_of_zero_has_no_scaled_logit(tmp_path):
    table = as_kind(frame(("target",), SMALL), "loss")
    sums = read_signals(written(tmp_path, table.assign(loss=table["loss"] * 300.0 + 100.0)))  # of many tokens
    part = sums.signals("target", "test")
    np.testing.assert_allclose(part["scaled_logit"], -part["loss"], rtol=1e-6)
    certain = table.assign(loss=table["loss"].where(table.index != 3, 0.0))
    assert read_signals(written(tmp_path, certain, "zero.csv")).signal_names == ("loss",)
    negative = table.assign(loss=table["loss"] - 5.0)  # a density
    assert read_signals(written(tmp_path, negative, "negative.csv")).signal_names == ("loss",)


def change(**values):
    """Set cells: ``row__column=value``."""

    def apply(table):
        table = table.astype(object)
        for key, value in values.items():
            row, column = key.split("__")
            table.loc[int(row[1:]), column] = value
        return table

    return apply


def seen_by(model, **cells):
    def apply(table):
        return change(**cells)(table.assign(seen="").replace({"model": {"unlearned": model}}))

    return apply


def shadows_of(table):
    """Two shadow models, of which the first alone has a retained record."""
    own = table[table["model"] == "original"]
    more = own.iloc[:1].assign(record="SECRET-new", patient="SECRET-new", part="retain")
    return pd.concat([table, *(own.assign(model=f"shadow-{k}") for k in (1, 2)), more.assign(model="shadow-1")])


BAD = {
    "no number": (change(r3__p_0="high"), ["p_0 is not a finite number", ":5"]),
    "not a number": (change(r3__p_0="nan", r4__p_1="inf"), ["p_0 is not a finite number", "p_1 is not a finite", ":6"]),
    "a missing value": (change(r3__p_0="NA"), ["p_0 is missing", ":5"]),
    "outside": (change(r3__p_0=1.2), ["outside of 0 to 1", ":5"]),
    "a wrong sum": (change(r3__p_0=0.0001, r3__p_1=0.5, r3__p_2=0.4), ["do not sum to 1", ":5"]),
    "rounded": (change(r3__p_0=0.0, r3__p_1=1.0, r3__p_2=0.0), ["exactly 0 or 1", "--probability-floor", ":5"]),
    "a label out of range": (change(r3__label=3), ["label is no whole number from 0 up to 2", ":5"]),
    "half a label": (change(r3__label=0.5), ["label is no whole number", ":5"]),
    "an unknown part": (change(r3__part="membr"), ["part is none of forget (or member)", ":5"]),
    "a missing part": (change(r3__part=""), ["part is missing", ":5"]),
    "an unknown model": (change(r3__model="unlerned"), ["model is none of original, unlearned", ":5"]),
    "a model without its number": (change(r3__model="retrained"), ["model is none of", ":5"]),
    "a missing patient": (change(r3__patient=" "), ["patient is missing", ":5"]),
    "two patients of a record": (change(r3__patient="SECRET-x"), ["several values of patient", ":4, signals.csv:5"]),
    "two labels of a record": (
        lambda t: t.assign(label=t["label"].where(t.index != 3, (t["label"] + 1) % 3)),
        ["several values of label"],
    ),
    "a row twice": (lambda t: pd.concat([t, t.iloc[[3]]]), ["twice for one model", "column 'query'", ":22"]),
    "a part that one of two lacks": (
        lambda t: shadows_of(t.assign(seen=1)),
        ["some models shadow-1, ... have rows of part retain and others have none"],
    ),
    "a row too few": (lambda t: t.drop(index=3), ["model unlearned lacks 1 of 4 rows of part forget"]),
    "a patient on both sides": (
        lambda t: t.assign(patient=t["patient"].replace("SECRET-nonmember-0", "SECRET-member-0")),
        ["4 rows: a patient stands on both sides", ":2"],
    ),
    "nobody to look for": (lambda t: t[t["part"] != "member"], ["no row of part forget"]),
    "no outsider": (lambda t: t[t["part"] != "nonmember"], ["no row of part test"]),
    "no row": (lambda t: t.iloc[:0], ["no row follows the header"]),
    "no model to audit": (
        lambda t: t.assign(model=t["model"].map({"original": "retrained-1", "unlearned": "retrained-2"})),
        ["no model to audit"],
    ),
    "a shadow model that does not say": (seen_by("shadow-1"), ["seen is missing", ":3"]),
    "seen neither 0 nor 1": (seen_by("shadow-1", r1__seen=2), ["seen is no whole number from 0 up to 1", ":3"]),
    "a retrained model that saw": (seen_by("retrained-1", r1__seen=1), ["retrained models never saw", ":3"]),
    "seen against the part": (seen_by("unlearned", r0__seen=0), ["seen contradicts the part", ":2"]),
    "a typo in a column": (
        lambda t: t.rename(columns={"model": "modell"}),
        ["1 column unknown", "column 'modell'. Did you mean 'model'?"],
    ),
    "a column too many": (lambda t: t.assign(age=40), ["1 column unknown", "column 'age'", "group_NAME"]),
    "no patient column": (lambda t: t.drop(columns="patient"), ["column 'patient' is missing", "patient of its own"]),
    "no signal": (lambda t: t.drop(columns=["p_0", "p_1", "p_2"]), ["none is there"]),
    "two signals": (lambda t: t.assign(loss=1.0), ["several are there: loss, probabilities"]),
    "a class without a column": (lambda t: t.drop(columns="p_1"), ["one column a class is needed", "p_0, p_2"]),
    "no label": (lambda t: t.drop(columns="label"), ["need the column 'label'"]),
    "columns that differ by case": (lambda t: t.assign(Part="x"), ["two columns are called 'part'"]),
    "names in a group": (
        lambda t: t.assign(group_name=[f"SECRET{n // 2}" for n in range(len(t))]).pipe(lambda f: pd.concat([f] * 4)),
        ["twice for one model"],
    ),
    "commas and points": (change(r3__p_0="0,5"), ["decimal comma and others a decimal point", ":5"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_rows(tmp_path, case):
    spoil, words = BAD[case]
    _, whole = refused(written(tmp_path, spoil(frame(("original", "unlearned"), SMALL))))
    for word in words:
        assert word in whole, whole


def test_everything_is_said_at_once_and_ids_to_the_terminal_only(tmp_path):
    table = change(r3__p_0="x", r5__part="SECRET-part", r9__patient="SECRET-other")(
        frame(("original", "unlearned"), SMALL)
    )
    public, whole = refused(written(tmp_path, table))
    assert "4 things are wrong" in public  # and what follows: the record lacks a row
    assert "signals.csv:7: 'SECRET-part'" in whole
    many = frame(("original", "unlearned")).assign(p_0="x")
    public, whole = refused(written(tmp_path, many))
    assert "240 rows: p_0 is not a finite number" in public
    assert "and 235 more" in public
    assert "... and 220 more" in whole


def test_groups_that_would_name_people_are_refused(tmp_path):
    table = frame(("target",)).assign(group_street=lambda t: t["patient"])
    assert "more than 30: make wider groups" in refused(written(tmp_path, table))[0]


def test_a_floor_is_applied_only_where_it_is_asked_for_and_is_said(tmp_path):
    table = frame(("target",), SMALL)
    table.loc[3, ["p_0", "p_1", "p_2"]] = [0.0, 1.0, 0.0]
    path = written(tmp_path, table)
    assert "exactly 0 or 1" in refused(path)[0]
    read = read_signals(path, probability_floor=1e-3)
    assert "probabilities below 0.001 were counted as 0.001, as asked: 2 values in 1 rows" in read.notes
    p = np.exp(np.concatenate([values[:, 0] for values in read.values["target"].values()]))
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert sorted(p.min(axis=1))[0] == pytest.approx(0.001 / 1.002)
    with pytest.raises(ConfigError, match="probability_floor"):
        read_signals(path, probability_floor=0.5)


def test_rounded_values_are_noted(tmp_path):
    table = as_kind(frame(("target",)), "loss")
    assert not [note for note in read_signals(written(tmp_path, table)).notes if "rounded" in note]
    coarse = table.assign(loss=table["loss"].round(1))
    assert [note for note in read_signals(written(tmp_path, coarse)).notes if "look rounded" in note]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no header"),
        (b"# nothing but this\n", "no header"),
        (b"record\nr1\n", "no header with several columns"),
        ("record,patient,part,loss\nr1,p1,member,1\n".encode("utf-16"), "not UTF-8"),
        (b"record,patient,part,loss\nr1,p1,member\n", "more or fewer cells"),
        (b"record,patient,part,loss\nr1,p1,member,1,5\n", "more or fewer cells"),
        (b'record,patient,part,loss\nr1,"p1,member,1\n', "cannot be split into cells"),
        (b"record,patient,part,part,loss\nr1,p1,member,test,1\n", "two columns of one name"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, word):
    path = tmp_path / "signals.csv"
    path.write_bytes(content)
    assert word in refused(path)[0]


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="there is no file nothing"):
        read_signals(tmp_path / "nothing.csv")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_broken_file_is_read_or_refused_and_nothing_else(tmp_path, data):
    text = frame(("original", "unlearned"), {"member": 2, "nonmember": 3}).to_csv(index=False, float_format="%.4f")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        put = data.draw(st.text(string.printable + "äß\x00\u2028", max_size=6))
        text = text[:at] + put + text[at + cut :]
    path = tmp_path / "fuzzed.csv"
    path.write_text(text, encoding="utf-8", newline="")
    read, told = None, ""
    try:
        read = read_signals(path)
    except DataError as error:
        told = error.public
    # The names of columns that are there twice are told: they are no ids, but of a file without its header
    assert "SECRET" not in told or "two columns" in told
    for parts in () if read is None else read.values.values():
        assert all(np.isfinite(values).all() for values in parts.values())
