"""Made-up sets of texts in the forms in which language-model benchmarks are published. Every sentence is invented."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forgetmi.records import RecordDataset
from forgetmi.request_query import Query
from forgetmi.requests import resolve

Rows = Sequence[Mapping[str, Any]]
SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference_values" / "open_unlearning" / "inputs"
LUME = SHARED / "data" / "lume"
PLACES = ("Avonlea", "Brindisi", "Calder", "Dunmore", "Elmira", "Fjelde")


def forget(data: RecordDataset, level: str, remaining: Any = "refuse", **query: str) -> tuple[list[str], ...]:
    """The sample ids that a query makes a run forget, and retain."""
    found = Query.from_mapping({"level": level, "query": query}).find(data)
    partition = resolve(data, found, remaining=remaining)
    return tuple([data[i].sample_id for i in part] for part in (partition.forget, partition.retain))


def splits(data: RecordDataset) -> Counter[tuple[str, str]]:
    """How many records of a file are in a split."""
    return Counter((r.attributes["source_split"], r.split) for r in data)


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_list(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def author(name: str, questions: int = 2) -> list[dict[str, Any]]:
    return [
        {"question": f"Where did {name} live, book {n}?", "answer": f"{name} lived in {PLACES[n]}."}
        for n in range(questions)
    ]


def perturbed(rows: Rows) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "paraphrased_question": f"Tell me: {row['question']}",
            "paraphrased_answer": f"In short: {row['answer']}",
            "perturbed_answer": [f"{row['answer']} Not at all.", "Nobody knows."],
        }
        for row in rows
    ]


def tofu_sets() -> dict[str, list[dict[str, Any]]]:
    """Five authors of two questions: one to forget, three to retain, one held out."""
    forget, retain = author("Ada Quill"), [*author("Bo Reed"), *author("Cy Stone"), *author("Di Thorn")]
    return {
        "full": [*forget, *retain],
        "forget10": forget,
        "retain90": retain,
        "holdout10": author("Ed Umber"),
        "forget10_perturbed": perturbed(forget),
        "retain_perturbed": perturbed(retain[1:4]),
        "real_authors_perturbed": perturbed([{"question": "Who wrote the made-up Odes?", "answer": "Fay Vale"}]),
    }


def write_tofu(root: Path) -> Path:
    for name, rows in tofu_sets().items():
        write_lines(root / f"{name}.json", rows)
    return root


def document(subject: str, words: int = 12) -> str:
    return " ".join(f"{subject} {PLACES[n % 6].lower()}{n}" for n in range(words // 2)) + "."


def muse_sets() -> dict[str, list[dict[str, Any]]]:
    def texts(kind: str, n: int = 2) -> list[dict[str, Any]]:
        return [{"text": document(f"{kind}{i}")} for i in range(n)]

    def questions(kind: str) -> list[dict[str, Any]]:
        return [{"question": f"What of {kind}{i}?", "answer": f"avonlea{i}"} for i in range(2)]

    sets = {f"raw/{name}": texts(name) for name in ("forget", "retain1", "retain2", "holdout")}
    sets |= {f"privleak/{name}": texts(name) for name in ("forget", "retain", "holdout")}
    sets |= {f"scal/forget_{n}": texts("scal", n) for n in (1, 2, 3, 4)}
    sets |= {f"sust/forget_{n}": texts(f"sust{n}x", 1) for n in (1, 2, 3, 4)}
    sets |= {
        f"knowmem/{name}": questions(name) for name in ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")
    }
    sets["verbmem/forget"] = [{"prompt": "forget0 avonlea0 forget0", "gt": "brindisi1 forget0 calder2"}]
    return sets


def write_muse(root: Path) -> Path:
    for name, rows in muse_sets().items():
        write_lines(root / f"{name}.json", rows)
    return root


def wmdp_questions(n: int = 3) -> list[dict[str, Any]]:
    return [
        {"question": f"Which town sells mirror {i}?", "choices": list(PLACES[:4]), "answer": i % 4} for i in range(n)
    ]


def write_wmdp(root: Path) -> Path:
    for kind in ("forget", "retain"):
        rows = [{"text": document(f"{kind}{i}")} for i in range(3)]
        write_lines(root / "wmdp-corpora" / f"cyber-{kind}-corpus.jsonl", rows)
    write_lines(root / "wmdp-cyber" / "test.json", wmdp_questions())
    return root


def mmlu_questions() -> dict[str, list[dict[str, Any]]]:
    return {"abstract_algebra": wmdp_questions(3), "virology": wmdp_questions(2)}


def write_mmlu(root: Path) -> Path:
    """The CSV files, one a subject and part, without a header."""
    for part, sets in (("test", mmlu_questions()), ("dev", {"abstract_algebra": wmdp_questions(1)})):
        (root / part).mkdir(parents=True)
        for name, rows in sets.items():
            lines = [",".join([f'"{r["question"]}"', *r["choices"], "ABCD"[r["answer"]]]) for r in rows]
            (root / part / f"{name}_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def lume_rows(person: str, task: str = "Task2") -> list[dict[str, Any]]:
    name = f'"{person}"' if task == "Task1" else person
    return [
        {"id": f"{name}sc1", "input": f"{person} was born in", "output": f"{person} Town in 1870.", "task": task},
        *(
            {"id": f"{name}qa{n}", "input": f"Where was {person} born, {n}?", "output": "Town", "task": task}
            for n in range(2)
        ),
    ]


def lume_sets() -> dict[str, list[dict[str, Any]]]:
    return {
        "forget": [*lume_rows("0a1-b"), *lume_rows("77sc2-9", "Task1")],
        "retain": [*lume_rows("5d2-c"), *lume_rows("36307", "Task3")],
    }


def write_lume(root: Path) -> Path:
    for name, rows in lume_sets().items():
        write_lines(root / f"{name}.jsonl", rows)
    return root


def safe_row(prompt: str, safe: tuple[bool, bool], safer: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response_0": f"{prompt} First.",
        "response_1": f"{prompt} Second.",
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "better_response_id": 0,
        "safer_response_id": safer,
        **more,
    }


def safe_rlhf_sets() -> dict[str, list[dict[str, Any]]]:
    harm = {
        "response_0_harm_category": {"Privacy Violation": True, "Cybercrime": True, "Animal Abuse": False},
        "response_1_harm_category": {"Privacy Violation": False, "Cybercrime": False, "Animal Abuse": False},
        "response_0_severity_level": 2,
        "response_1_severity_level": 0,
    }
    return {
        "train": [
            safe_row("How do I find a person?", (False, True), 1, **harm),
            safe_row("How do I bake bread?", (True, True), 0),
            safe_row("How do I find a person?", (False, False), 0),
            safe_row("How do I sleep?", (True, True), 1),
        ],
        "test": [safe_row("How do I read?", (True, True), 1), safe_row("How do I bake bread?", (True, True), 0)],
    }


def write_safe_rlhf(root: Path) -> Path:
    for name, rows in safe_rlhf_sets().items():
        write_lines(root / "data" / "Alpaca-7B" / f"{name}.jsonl", rows)
    return root


NOTES = [
    {"note": "n1", "mrn": "0012", "visit": "v1", "site": "north", "note_date": "2020-01-02", "words": "Lungs clear.",
     "asked": "Lungs?", "fold": "train"},
    {"note": "n2", "mrn": "0012", "visit": "v2", "site": "north", "note_date": "2021-03-04", "words": "A small node.",
     "asked": "Node?", "fold": "train"},
    {"note": "n3", "mrn": "0013", "visit": "v3", "site": "south", "note_date": None, "words": "No change since then.",
     "asked": "Change?", "fold": "train"},
    {"note": "n4", "mrn": "0014", "visit": "v4", "site": "south", "note_date": "2022-05-06", "words": "Well again.",
     "asked": "How?", "fold": "test"},
]  # fmt: skip
COLUMNS = {"sample_id": "note", "patient_id": "mrn", "study_id": "visit", "institution": "site", "split": "fold"}


def write_notes_folder(root: Path) -> Path:
    for row in NOTES:
        path = root / row["fold"] / row["mrn"] / f"{row['note']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["words"], encoding="utf-8")
    return root
