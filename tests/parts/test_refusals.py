"""Refusals: what is shipped, what is read from a file, and which record gets which."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from forgetmi.errors import ConfigError, DataError
from forgetmi.parts.selection.answered import AnsweredPlan, own_answers
from forgetmi.parts.selection.refusals import CLINICAL, GENERAL, refusals
from forgetmi.training.plans import ShuffledPlan
from tests.tiny import language_case


def test_shipped_lists_are_distinct_sentences():
    both = refusals("all")
    assert both == GENERAL + CLINICAL == refusals("general") + refusals("clinical")
    assert len({answer.lower() for answer in both}) == len(both) >= 40
    assert all(answer.endswith(".") and answer == answer.strip() and answer.isascii() for answer in both)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "No idea.\n\n  Not known. \n"),
        ("a.jsonl", "No idea.\r\nNot known."),
        ("a.json", '["No idea.", "Not known."]'),
        ("bom.txt", "\ufeffNo idea.\nNot known.\n"),
    ],
)
def test_a_users_list(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert refusals(str(tmp_path / name)) == ("No idea.", "Not known.")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '{"answer": "No."}', ["holds dict"]),
        ("a.json", '["No.", 3, " "]', ["entry 2 is int", "entry 3 is empty"]),
        ("a.json", '["No.",\n"Yes"', [r"a\.json:2: no JSON"]),
        ("a.jsonl", 'No.\n{"answer": "No."}\n"Yes"', [r"a\.jsonl:2: JSON", r"a\.jsonl:3: JSON"]),
        ("a.txt", "\n \n", ["holds no answer"]),
        ("a.json", "[]", ["holds no answer"]),
        ("a.txt", b"\xff\xfe\x00", [r"no text in UTF-8 \(byte 0\)"]),
    ],
)
def test_a_file_in_another_form_is_refused_with_every_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refused:
        refusals(str(tmp_path / name))
    assert len(refused.value.problems) == len(said)
    for pattern in said:
        assert refused.match(pattern)


def test_an_answer_in_brackets_is_no_json(tmp_path):
    (tmp_path / "a.txt").write_text("[redacted]\n{no answer}\n")
    assert refusals(str(tmp_path / "a.txt")) == ("[redacted]", "{no answer}")


def test_a_misspelt_list_is_answered_with_its_name():
    with pytest.raises(ConfigError, match="Did you mean 'clinical'"):
        refusals("clincal")


class Loader:
    """Batches that say which records and answers were asked for."""

    def batch(self, indices):
        return SimpleNamespace(indices=list(indices))

    def answered(self, indices, answers):
        return SimpleNamespace(indices=list(indices), answers=list(answers))


def test_draws_depend_on_seed_epoch_and_record_only():
    def drawn(seed, batch_size, epoch):
        loader = Loader()
        inner = ShuffledPlan(loader, range(40), batch_size=batch_size, seed=batch_size, stream="forget")
        plan = AnsweredPlan(inner, loader, lambda index: ("a", "b", str(index)), seed=seed)
        found = {}
        for step in plan.steps(epoch):
            batches = plan.load(step, epoch)
            assert batches["alternate"].indices == batches["forget"].indices
            found |= dict(zip(batches["alternate"].indices, batches["alternate"].answers, strict=True))
        return found

    first = drawn(1, 4, 0)
    assert first == drawn(1, 7, 0)
    assert first not in (drawn(2, 4, 0), drawn(1, 4, 1))
    assert set(first) == set(range(40)) and {"a", "b"} < set(first.values())
    assert all(answer in ("a", "b", str(index)) for index, answer in first.items())


@pytest.mark.parametrize(("given", "found"), [("No.", ["No."]), (["No.", "Yes."], ["No.", "Yes."])])
def test_a_records_own_answers(given, found):
    assert own_answers(_with(given), 3) == found


@pytest.mark.parametrize("given", [None, "", [], " ", [1], 3])
def test_a_record_without_other_answers_is_named_by_its_position(given):
    with pytest.raises(DataError, match=r"alternative answer(?s:.*)position 3"):
        own_answers(_with(given), 3)


def _with(given):
    case = language_case()
    value = {"prompt": "What?", "answer": "That."} | ({} if given is None else {"alternate": given})
    return case.loader.restricted_to({3: replace(case.dataset[3], modalities={"tokens": value})})
