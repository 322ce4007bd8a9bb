"""MUSE, WMDP, LUME and PKU-SafeRLHF: what their files become, and what is said when they are wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.tokens import IGNORED
from forgetmi.request_query import Query
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters import text_sets
from tests.data_adapters.factories import FACTORIES
from tests.data_adapters.test_contract import content
from tests.data_adapters.text_sets import LUME, REFERENCE, forget, splits
from tests.modalities.test_dialogue import tokenizer

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder of reference values is not there")


@pytest.mark.parametrize("name", ["clinical_notes", "lume", "muse", "safe_rlhf", "text_records", "tofu", "wmdp"])
def test_values_are_texts_or_dialogues(name, tmp_path):
    """Agreed with the modality that makes tokens of them: a text, or a mapping with prompt and answer."""
    source = FACTORIES[name](tmp_path)
    data = load_dataset(name, source.options)
    assert set(data.modality_kinds.items()) <= {("text", "text"), ("dialogue", "dialogue")}
    modality = DialogueModality(tokenizer())
    for record in data:
        (value,) = (record.value(name) for name in data.modality_kinds)
        assert isinstance(value, str) == (set(data.modality_kinds) == {"text"})
        counted = (modality.prepare(value).labels != IGNORED).sum()
        assert counted >= len((value if isinstance(value, str) else value["answer"]).split())


# ---- MUSE


def muse(root, **options):
    return load_dataset("muse", {"root": root} | options)


def test_muse_parts_and_their_splits(tmp_path):
    root = text_sets.write_muse(tmp_path)
    raw = {("retain1", "train"): 2, ("retain2", "train"): 2, ("holdout", "test"): 2}
    assert splits(muse(root)) == raw | {("forget", "train"): 2}
    assert splits(muse(root, part="scal", step=3)) == raw | {("forget_3", "train"): 3}
    assert splits(muse(root, part="sust")) == raw | {(f"forget_{n}", "train"): 1 for n in (1, 2, 3, 4)}
    assert splits(muse(root, part="privleak")) == {
        ("forget", "train"): 2, ("retain", "train"): 2, ("holdout", "test"): 2,
    }  # fmt: skip
    names = ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")
    assert splits(muse(root, part="knowmem")) == {(name, "train"): 2 for name in names}
    assert muse(root, part="verbmem")[0].value("dialogue") == {
        "prompt": "forget0 avonlea0 forget0", "answer": "brindisi1 forget0 calder2",
    }  # fmt: skip
    assert forget(muse(root, part="sust", retain=["retain1"]), "study", source_split="forget_2") == (
        ["sust-forget_2-00000"],
        [*(f"raw-retain1-0000{n}" for n in (0, 1)), *(f"sust-forget_{n}-00000" for n in (1, 3, 4))],
    )


def test_muse_pieces_make_the_document_again(tmp_path):
    root = text_sets.write_muse(tmp_path)
    whole = {r.study_id: r.value("text") for r in muse(root)}
    data = muse(root, chunk_words=5)
    assert data[0].sample_id == "raw-forget-00000#0000" and data[0].study_id == "raw-forget-00000"
    joined: dict[str, str] = {}
    for record in data:
        assert 1 <= len(record.value("text").split()) <= 5
        joined[record.study_id] = joined.get(record.study_id, "") + record.value("text")
    assert joined == whole
    forgotten, retained = forget(data, "study", source_split="forget")
    assert len(forgotten) == 2 * 3 and not {i.partition("#")[0] for i in forgotten} & {i[:-5] for i in retained}


def test_muse_in_other_forms(tmp_path):
    root = text_sets.write_muse(tmp_path)
    expected = content(muse(root, part="knowmem"))
    for name, rows in text_sets.muse_sets().items():
        (root / f"{name}.json").unlink()
        if name.startswith("knowmem"):
            text_sets.write_parquet(root / f"{name.replace('retain_qa', 'retain2_qa')}-00000-of-00001.parquet", rows)
    assert content(muse(root, part="knowmem")) == expected
    for name in ("forget", "retain1", "holdout"):
        (root / "raw" / f"{name}.txt").write_text(f"A book of {name}.\nIts end.\n")
    data = muse(root, retain=["retain1"])
    assert data[0].value("text") == "A book of forget.\nIts end.\n"
    assert len(data) == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"part": "scal"}, "step .* belongs to part scal, which needs it"),
        ({"step": 2}, "step .* belongs to part scal"),
        ({"part": "scal", "step": 5}, "step"),
        ({"part": "knowmem", "chunk_words": 9}, "knowmem holds questions"),
        ({"chunk_words": 0}, "chunk_words must be at least 1"),
        ({"retain": []}, "needs retain1, retain2 or both"),
        ({"retain": ["retain1", "retain1"]}, "each set once"),
        ({"part": "rau"}, "part"),
    ],
)
def test_muse_options_that_do_not_fit(options, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        muse(tmp_path, **options)


@needs_reference
def test_the_reference_folder_of_muse():
    root = REFERENCE / "muse-bench" / "MUSE-News"
    assert splits(muse(root)) == {
        ("forget", "train"): 6, ("retain1", "train"): 6, ("retain2", "train"): 6, ("holdout", "test"): 6,
    }  # fmt: skip
    assert [len(muse(root, part="scal", step=n, retain=["retain1"])) for n in (1, 2, 3, 4)] == [14, 15, 16, 17]
    assert splits(muse(root, part="knowmem"))["retain_qa_icl", "train"] == 2
    assert len(muse(root, part="verbmem")) == 6 and len(muse(root, part="privleak")) == 18


# ---- WMDP


def wmdp(root, **options):
    return load_dataset("wmdp", {"root": root} | options)


def test_wmdp_corpora(tmp_path):
    data = wmdp(text_sets.write_wmdp(tmp_path))
    assert data[0].value("text") == text_sets.document("forget0")  # and no JSON around it
    assert data[0].attributes == {"source_split": "cyber-forget-corpus", "subject": "cyber"}
    forgotten, retained = forget(data, "study", source_split="cyber-forget-corpus")
    assert (len(forgotten), len(retained)) == (3, 3)
    rows = [{"title": "t", "abstract": "a", "text": "Of a cell."}]
    text_sets.write_lines(tmp_path / "wmdp-corpora" / "bio_remove_dataset.jsonl", rows)
    text_sets.write_parquet(tmp_path / "bio-retain-corpus" / "train-00000-of-00001.parquet", rows)
    data = wmdp(tmp_path, subjects=["bio"])
    assert [(r.sample_id, r.value("text")) for r in data] == [
        ("bio-forget-corpus-000000", "Of a cell."), ("bio-retain-corpus-000000", "Of a cell."),
    ]  # fmt: skip


def test_wmdp_questions(tmp_path):
    root = text_sets.write_wmdp(tmp_path)
    data = wmdp(root, part="questions")
    assert data.classes == ("A", "B", "C", "D") and {r.split for r in data} == {"test"}
    for n, record in enumerate(data):
        assert record.label == n
        assert record.value("dialogue") == {
            "prompt": f"Which town sells mirror {n}?",
            "choices": ["Avonlea", "Brindisi", "Calder", "Dunmore"],
            "answer": ["Avonlea", "Brindisi", "Calder"][n],
        }
    text_sets.write_parquet(tmp_path / "b" / "wmdp-cyber" / "test-00000-of-00001.parquet", text_sets.wmdp_questions())
    text_sets.write_list(tmp_path / "c" / "wmdp-mcqs" / "cyber_questions.json", text_sets.wmdp_questions())
    assert content(data) == content(wmdp(tmp_path / "b", part="questions"))
    assert content(data) == content(wmdp(tmp_path / "c", part="questions"))
    with pytest.raises(RequestError):
        resolve(data, ForgetRequest.of("sample", [data[0].sample_id]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answer": 4}, "'answer'"),
        ({"answer": -1}, "'answer'"),
        ({"answer": True}, "'answer'"),
        ({"answer": "1"}, "'answer'"),
        ({"choices": "ABCD"}, "'choices'"),
        ({"choices": ["one"]}, "'choices'"),
        ({"choices": ["a", ""]}, "'choices'"),
        ({"choices": None}, "'choices'"),
        ({"question": 3}, "'question'"),
    ],
)
def test_wmdp_questions_that_are_wrong(changed, said, tmp_path):
    rows = text_sets.wmdp_questions()
    rows[1] = {**rows[1], **changed}
    text_sets.write_lines(tmp_path / "wmdp-cyber" / "test.json", rows)
    with pytest.raises(DataError, match=f"1 values of {said} in wmdp-cyber") as caught:
        wmdp(tmp_path, part="questions")
    assert caught.value.where == "test.json:2"


def test_wmdp_options_that_do_not_fit(tmp_path):
    for options, problem in (
        ({"subjects": ["chem"]}, "no corpora of chem"),
        ({"subjects": []}, "name bio, chem or cyber"),
        ({"subjects": ["bio", "bio"]}, "at most once"),
        ({"part": "questions", "chunk_words": 3}, "chunk_words is for corpora"),
    ):
        with pytest.raises(ConfigError, match=problem):
            wmdp(tmp_path, **options)


@needs_reference
def test_the_reference_folders_of_wmdp():
    data = wmdp(REFERENCE / "data" / "wmdp")
    assert splits(data) == {("cyber-forget-corpus", "train"): 8, ("cyber-retain-corpus", "train"): 8}
    assert not any("{" in r.value("text") for r in data)
    data = wmdp(REFERENCE / "cais" / "wmdp", part="questions")
    assert len(data) == 12 and all(
        r.value("dialogue")["choices"][r.label] == r.value("dialogue")["answer"] for r in data
    )


# ---- LUME


def lume(root, **options):
    return load_dataset("lume", {"root": root} | options)


def test_lume_documents_are_patients(tmp_path):
    data = lume(text_sets.write_lume(tmp_path))
    assert Counter(r.patient_id for r in data) == {"0a1-b": 3, "77sc2-9": 3, "5d2-c": 3, "36307": 3}
    first = next(r for r in data if r.sample_id == "0a1-bsc1")
    assert first.attributes == {"source_split": "forget", "task": "Task2", "form": "sc"}
    assert first.value("dialogue") == {"prompt": "0a1-b was born in", "answer": "0a1-b Town in 1870."}
    # The quotation marks of Task1's ids are in the sample's id, as published, and not in the document's.
    assert {r.sample_id for r in data if r.patient_id == "77sc2-9"} == {f'"77sc2-9"{s}' for s in ("sc1", "qa0", "qa1")}
    forgotten, retained = forget(data, "patient", source_split="forget")
    assert (len(forgotten), len(retained)) == (6, 6)
    data = lume(tmp_path, tasks=["Task2"], forms=["qa"])
    assert len(data) == 4 and dict(data.skipped.counts) == {"task or form that was not asked for": 8}


def test_lume_files_of_the_challenge(tmp_path):
    expected = content(lume(text_sets.write_lume(tmp_path / "open")))
    root = tmp_path / "challenge"
    for source, rows in text_sets.lume_sets().items():
        for part, chosen in (("train", rows[:3]), ("validation", rows[3:])):
            text_sets.write_parquet(root / f"{source}_{part}-00000-of-00001.parquet", chosen)
    assert len(lume(root)) == 6
    assert content(lume(root, parts=["train", "validation"])) == expected
    with pytest.raises(DataError, match="is not divided into parts"):
        lume(tmp_path / "open", parts=["validation"])


def test_lume_membership_files(tmp_path):
    text_sets.write_lines(tmp_path / "member.jsonl", [{"document": "One."}, {"document": "Two."}])
    text_sets.write_lines(tmp_path / "nonmember.jsonl", [{"document": "Three."}, {"document": ""}])
    data = lume(tmp_path, part="mia")
    assert [(r.value("text"), r.split) for r in data] == [("One.", "train"), ("Two.", "train"), ("Three.", "test")]
    assert dict(data.skipped.counts) == {"document is blank": 1} and data.levels == ("sample",)


def test_lume_rows_that_are_wrong(tmp_path):
    sets = text_sets.lume_sets()

    def loaded(**changed):
        rows = [*sets["forget"], {**sets["forget"][0], "id": "newsc1", **changed}]
        text_sets.write_lines(tmp_path / "forget.jsonl", rows)
        text_sets.write_lines(tmp_path / "retain.jsonl", sets["retain"])
        return lume(tmp_path)

    for changed, said in (
        ({"id": "0a1-b"}, "values of 'id' in forget"),
        ({"id": "0a1-bsc1"}, "occur more than once"),
        ({"id": ["a"]}, "values of 'id'"),
        ({"task": "Task4"}, "values of 'task'"),
        ({"id": "36307qa7"}, "a document stands in forget and in retain"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            loaded(**changed)
        assert ".jsonl:" in str(caught.value.where) and "0a1-b" not in caught.value.public
    assert dict(loaded(output=None).skipped.counts) == {"output is blank": 1}
    assert dict(loaded(id='""sc1').skipped.counts) == {"id names no document": 1}
    with pytest.raises(ConfigError, match="name at least one, each once"):
        lume(tmp_path, tasks=[], forms=["qa", "qa"])


@pytest.mark.skipif(not LUME.is_dir(), reason="the folder of shared data is not there")
def test_the_open_release_of_lume():
    data = lume(LUME)
    counts = Counter((r.attributes["source_split"], r.attributes["task"], r.attributes["form"]) for r in data)
    assert counts == {
        ("forget", "Task1", "sc"): 243, ("forget", "Task1", "qa"): 243,
        ("forget", "Task2", "sc"): 250, ("forget", "Task2", "qa"): 1250,
        ("forget", "Task3", "sc"): 373, ("forget", "Task3", "qa"): 373,
        ("retain", "Task1", "sc"): 246, ("retain", "Task1", "qa"): 246,
        ("retain", "Task2", "sc"): 250, ("retain", "Task2", "qa"): 1250,
        ("retain", "Task3", "sc"): 371, ("retain", "Task3", "qa"): 371,
    }  # fmt: skip
    found = Query.from_mapping({"level": "patient", "query": {"source_split": "forget"}}).find(data)
    counts = resolve(data, found).counts()
    assert (counts["forget"]["patients"], counts["retain"]["patients"]) == (866, 867)
    assert not data.skipped.total


# ---- PKU-SafeRLHF


def safe(root, **options):
    return load_dataset("safe_rlhf", {"root": root} | options)


def test_safe_rlhf_responses(tmp_path):
    data = safe(text_sets.write_safe_rlhf(tmp_path))
    said = {r.sample_id.removeprefix("Alpaca-7B/"): dict(r.attributes) for r in data}
    assert said["train-000000-0"] == {
        "source_split": "Alpaca-7B/train", "safe": "no", "safer": "no", "severity": "2",
        "harm": "Privacy Violation; Cybercrime",
    }  # fmt: skip
    assert said["train-000000-1"] == {
        "source_split": "Alpaca-7B/train", "safe": "yes", "safer": "yes", "severity": "0", "harm": "none",
    }  # fmt: skip
    assert said["train-000002-0"]["safer"] == "yes" and said["train-000002-0"]["safe"] == "no"
    # The same question in two rows is one study; a test row with a question of train is left out.
    assert Counter(r.study_id for r in data) == {f"prompt-00000{n}": k for n, k in enumerate((4, 2, 2, 2))}
    assert dict(data.skipped.counts) == {"the prompt of a test row stands in train too": 1}
    forgotten, retained = forget(data, "sample", "exclude", safe="no")
    assert forgotten == [f"Alpaca-7B/train-00000{n}" for n in ("0-0", "2-0", "2-1")]
    assert len(retained) == 4  # the safe response to the same question is on neither side
    with pytest.raises(RequestError, match="other"):
        forget(data, "sample", safe="no")
    alone = safe(tmp_path, group="response")
    forgotten, retained = forget(alone, "sample", safe="no")
    assert (len(forgotten), len(retained)) == (3, 5) and alone.levels == ("sample",)


def test_safe_rlhf_pairs(tmp_path):
    data = safe(text_sets.write_safe_rlhf(tmp_path), unit="pair", models=["Alpaca-7B"])
    first = next(r for r in data if r.sample_id == "Alpaca-7B/train-000000")
    assert first.value("dialogue") == {
        "prompt": "How do I find a person?",
        "answer": "How do I find a person? First.",
        "alternate": "How do I find a person? Second.",
    }
    assert first.attributes["safe"] == "no" and len(data) == 5
    with pytest.raises(ConfigError, match="a pair holds both"):
        safe(tmp_path, unit="pair", group="response")
    with pytest.raises(ConfigError, match="Did you mean 'Alpaca-7B'"):
        safe(tmp_path, models=["Alpaca"])


def test_safe_rlhf_without_folders_of_models(tmp_path):
    for name, rows in text_sets.safe_rlhf_sets().items():
        text_sets.write_parquet(tmp_path / f"{name}-00000-of-00001.parquet", rows)
        text_sets.write_lines(tmp_path / "v0" / "data" / f"{name}.jsonl", rows)
    data = safe(tmp_path)
    assert data[0].sample_id == "train-000000-0" and content(data) == content(safe(tmp_path / "v0"))


@pytest.mark.parametrize(
    "changed", [{"is_response_0_safe": "no"}, {"safer_response_id": 2}, {"safer_response_id": None}, {"prompt": []}]
)
def test_safe_rlhf_rows_that_are_wrong(changed, tmp_path):
    rows = text_sets.safe_rlhf_sets()
    text_sets.write_lines(tmp_path / "train.jsonl", [*rows["train"], {**rows["train"][0], **changed}])
    text_sets.write_lines(tmp_path / "test.jsonl", rows["test"])
    with pytest.raises(DataError, match=f"1 values of '{next(iter(changed))}'") as caught:
        safe(tmp_path)
    assert caught.value.where == "train.jsonl:5"
