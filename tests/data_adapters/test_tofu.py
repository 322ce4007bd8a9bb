"""TOFU, and the forms of files that it and other sets of texts are published in."""

from __future__ import annotations

import gzip
from collections import Counter

import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters import text_sets
from tests.data_adapters.test_contract import content
from tests.data_adapters.text_sets import REFERENCE, forget, splits

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder of reference values is not there")


def tofu(root, **options):
    return load_dataset("tofu", {"root": root, "questions_per_author": 2} | options)


def test_tofu_authors_are_rows_by_their_place(tmp_path):
    data = tofu(text_sets.write_tofu(tmp_path))
    assert splits(data) == {("forget10", "train"): 2, ("retain90", "train"): 6, ("holdout10", "test"): 2}
    assert [(r.sample_id, r.patient_id) for r in data if r.attributes["source_split"] == "retain90"] == [
        ("retain90-0000", "retain90-author-000"),
        ("retain90-0001", "retain90-author-000"),
        ("retain90-0002", "retain90-author-001"),
        ("retain90-0003", "retain90-author-001"),
        ("retain90-0004", "retain90-author-002"),
        ("retain90-0005", "retain90-author-002"),
    ]
    first = next(r for r in data if r.sample_id == "forget10-0000")
    assert first.modalities == {
        "dialogue": {"prompt": "Where did Ada Quill live, book 0?", "answer": "Ada Quill lived in Avonlea."}
    }
    assert forget(data, "patient", source_split="forget10") == (
        ["forget10-0000", "forget10-0001"],
        [f"retain90-000{n}" for n in range(6)],
    )
    author = resolve(data, ForgetRequest.of("patient", ["retain90-author-001"]))
    assert [data[i].sample_id for i in author.forget] == ["retain90-0002", "retain90-0003"]
    assert any("taken for a patient" in note for note in data.notes)


@pytest.mark.parametrize("form", ["folders", "first names", "Parquet", "Parquet in parts", "lists", "gz"])
def test_tofu_in_every_published_form(form, tmp_path):
    expected = content(tofu(text_sets.write_tofu(tmp_path / "plain")))
    sets, root = text_sets.tofu_sets(), tmp_path / "other"
    for name in ("forget10", "retain90", "holdout10"):
        rows = sets[name]
        if form == "folders":
            text_sets.write_lines(root / name / "train.json", rows)
        elif form == "first names":
            text_sets.write_lines(root / (f"{name}.json" if "hold" in name else f"{name}_dataset.json"), rows)
        elif form == "Parquet":
            text_sets.write_parquet(root / f"{name}.parquet", rows)
        elif form == "Parquet in parts":
            text_sets.write_parquet(root / name / "train-00000-of-00002.parquet", rows[:1])
            text_sets.write_parquet(root / name / "train-00001-of-00002.parquet", rows[1:])
        elif form == "lists":
            text_sets.write_list(root / f"{name}.json", rows)
        else:
            path = text_sets.write_lines(root / f"{name}.jsonl", rows)
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    assert content(tofu(root)) == expected


def test_tofu_perturbed_sets(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    data = tofu(root, train=["forget10_perturbed", "retain_perturbed"], test=["real_authors_perturbed"])
    # Rows that no author owns stand alone.
    patients = Counter(r.patient_id for r in data)
    assert patients["forget10_perturbed-author-000"] == 2 and len(patients) == 1 + 3 + 1
    value = data[0].value("dialogue")
    assert value["paraphrased_prompt"] == f"Tell me: {value['prompt']}"
    assert value["paraphrased_answer"] == f"In short: {value['answer']}"
    assert value["perturbed_answers"] == [f"{value['answer']} Not at all.", "Nobody knows."]
    rows = [{k: v for k, v in row.items() if not k.startswith("para")} for row in text_sets.tofu_sets()["full"]]
    text_sets.write_lines(root / "world_facts_perturbed.json", [{**r, "perturbed_answer": ["no"]} for r in rows])
    data = tofu(root, train=["world_facts_perturbed"], test=[])
    assert set(data[0].value("dialogue")) == {"prompt", "answer", "perturbed_answers"}
    text_sets.write_lines(root / "world_facts_perturbed.json", [{**r, "perturbed_answer": "no"} for r in rows])
    with pytest.raises(DataError, match="8 values of 'perturbed_answer'"):
        tofu(root, train=["world_facts_perturbed"], test=[])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"train": ["forget01", "forget05"]}, "forget01 and forget05 overlap"),
        ({"train": ["forget10", "retain95"]}, "forget10 and retain95 overlap"),
        ({"train": ["full", "forget10"]}, "full and forget10 overlap"),
        ({"train": ["forget10", "forget10_perturbed"]}, "forget10 and forget10_perturbed overlap"),
        ({"train": ["retain90"], "test": ["retain_perturbed"]}, "retain90 and retain_perturbed overlap"),
        ({"train": ["forget1"]}, "unknown. Did you mean 'forget1"),
        ({"train": ["full"], "test": ["full"]}, "named twice"),
        ({"train": [], "test": []}, "at least one set"),
        ({"questions_per_author": 0}, "at least 1, not 0"),
    ],
)
def test_tofu_options_that_do_not_fit(options, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        load_dataset("tofu", {"root": tmp_path} | options)


def test_tofu_says_all_that_is_wrong_with_its_options(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_dataset(
            "tofu", {"root": tmp_path, "train": ["forgot10", "forget05", "retain90"], "questions_per_author": 0}
        )
    assert len(caught.value.problems) == 3


def test_tofu_sets_that_fit_together_are_no_error(tmp_path):
    for share, rest in (("01", "99"), ("05", "95"), ("10", "90")):
        with pytest.raises(DataError, match=f"the set forget{share} is not there"):
            tofu(tmp_path, train=[f"forget{share}", f"retain{rest}"], test=[f"holdout{share}", "world_facts"])


def test_tofu_an_author_in_two_sets_is_refused(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    text_sets.write_lines(root / "holdout10.json", text_sets.tofu_sets()["retain90"][2:4])
    with pytest.raises(DataError, match=r"stands in retain90 too") as caught:
        tofu(root)
    assert caught.value.where == "holdout10.json:1"


def test_tofu_rows_that_make_no_whole_author_are_refused(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    with pytest.raises(DataError, match=r"retain90 \(retain90.json\) has 6 rows") as caught:
        tofu(root, questions_per_author=4, train=["retain90"])
    assert "a multiple of 4" in str(caught.value) and caught.value.where == "retain90.json:6"


def test_tofu_a_blank_answer_is_counted_and_moves_nobody(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    rows = text_sets.tofu_sets()["retain90"]
    for wrong in (" ", None):
        rows[1] = {**rows[1], "answer": wrong}
        text_sets.write_lines(root / "retain90.json", rows)
        data = tofu(root)
        assert dict(data.skipped.counts) == {"answer is blank": 1}
        assert data.skipped.examples == {"answer is blank": ("retain90.json:2",)}
        assert [r.patient_id[-1] for r in data if r.patient_id.startswith("retain")] == ["0", "1", "1", "2", "2"]


def test_tofu_what_is_no_text_is_refused_with_its_row(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    rows = text_sets.tofu_sets()["forget10"]
    # A number, and half of a surrogate pair, which no tokenizer takes.
    (root / "forget10.json").write_text('{"question": "q", "answer": 3}\n{"question": "q", "answer": "\\ud800"}\n')
    with pytest.raises(DataError, match="2 values of 'answer' in forget10") as caught:
        tofu(root)
    assert caught.value.where == "forget10.json:1"
    assert "forget10.json:2" in str(caught.value) and "forget10.json:2" not in caught.value.public
    text_sets.write_lines(root / "forget10.json", [{"query": row["question"], "answer": "a"} for row in rows])
    with pytest.raises(DataError, match=r"no row of forget10 .* has 'question'. Available: answer, query"):
        tofu(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "forget10.json is empty"),
        (b"[]", "holds no row"),
        (b"[1, 2]", "2 items of forget10.json are neither"),
        (b"[{]", "forget10.json is no JSON"),
        ('{"question": "q", "answer": "ä"}'.encode("latin-1"), "forget10.json is not UTF-8"),
        ('{"question": "q", "answer": "a"}'.encode("utf-16"), "forget10.json is not UTF-8"),
        (b"question,answer\nq,a\n", "2 lines of forget10.json are no JSON object"),
        (b'{"question": ' + b"9" * 5000 + b"}\n", "1 lines of forget10.json are no JSON object"),
        (b"[" + b"9" * 5000 + b"]", "forget10.json cannot be read"),
    ],
)
def test_files_of_another_form(text, said, tmp_path):
    root = text_sets.write_tofu(tmp_path)
    (root / "forget10.json").write_bytes(text)
    with pytest.raises(DataError, match=said):
        tofu(root)


def test_a_set_that_is_not_there(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    (root / "forget10.json").rename(root / "forget_10.json")
    with pytest.raises(DataError, match=r"forget10 is not there. Did you mean 'forget_10'\?"):
        tofu(root)
    (root / "forget10.jsonl.xz").write_bytes(b"")  # packed in a way that is not read
    with pytest.raises(DataError, match="forget10 is not there") as caught:
        tofu(root)
    assert "unpacked" in str(caught.value)


def test_parts_that_are_missing(tmp_path):
    root = text_sets.write_tofu(tmp_path)
    rows = text_sets.tofu_sets()["retain90"]
    (root / "retain90.json").unlink()
    text_sets.write_parquet(root / "retain90-00000-of-00003.parquet", rows[:2])
    text_sets.write_parquet(root / "retain90-00002-of-00003.parquet", rows[4:])
    with pytest.raises(DataError, match="of 00003 parts of retain90 2 are there"):
        tofu(root)


@needs_reference
def test_the_reference_folder_of_tofu():
    root = REFERENCE / "locuslab" / "TOFU"
    data = tofu(root, questions_per_author=5)
    forgotten, retained = forget(data, "patient", source_split="forget10")
    assert (len(forgotten), len(retained), len(data.indices("test"))) == (15, 45, 15)
    # Its questions name the author: a group has one name, and no two groups share it.
    names: dict[str, set[str]] = {}
    for record in data:
        names.setdefault(record.patient_id, set()).add(record.value("dialogue")["answer"].rpartition(" was born")[0])
    found = {patient: next(iter(n - {""})) for patient, n in names.items() if len(n - {""}) == 1}
    assert len(set(found.values())) == len(found) == len(data.patients())
    data = tofu(root, questions_per_author=5, train=["forget10_perturbed"], test=["real_authors_perturbed"])
    assert [len(r.value("dialogue")["perturbed_answers"]) for r in data if r.split == "test"] == [3] * 10
