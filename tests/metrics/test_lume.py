"""SemEval-2025 task 4's score: its limiting cases, the published decompositions, and the score of a destroyed model."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from forgetmi.data_adapters.lume import Lume
from forgetmi.errors import AuditError, DataError
from forgetmi.metrics import lume_run
from forgetmi.metrics.choice_scoring import score_choices
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.intervals import Interval
from forgetmi.metrics.lume import (
    CELLS,
    LossAttack,
    LumeScore,
    TaskScores,
    form_of,
    loss_attack,
    mia_score,
    score_outputs,
)  # fmt: skip
from forgetmi.metrics.lume_run import attack_documents, document_nll, lume_score, write_outputs
from tests.data_adapters import text_sets
from tests.data_adapters.text_sets import write_lines
from tests.metrics.choice_files import WORDS, constant_lm, quiz, random_lm, word_tokenizer

RNG = np.random.default_rng
NONE = Interval.none("not asked for", n_patients=1)


def rows(n=2):
    """n documents of each part and task, with a completion and two questions each."""
    return [
        {"id": f"{source}-{task}-{d}{form}", "source": source, "task": task, "output": f"The answer of {task} is {d}."}
        for source, task, d in itertools.product(("forget", "retain"), ("Task1", "Task2", "Task3"), range(n))
        for form in ("sc1", "qa0", "qa1")
    ]


def scores(cells):
    """TaskScores whose 12 cells (after 1 - value) are these."""
    values = [1 - c if cell[0] == "forget" else c for cell, c in zip(CELLS, cells, strict=True)]
    sources, tasks, forms = zip(*CELLS, strict=True)
    return TaskScores(np.array(values), sources, tasks, forms, tuple(map(str, range(12))))


# ---- rows


def test_the_form_is_what_stands_before_the_last_character():
    assert [form_of(name) for name in ("1a2sc1", '"8f-2"qa0', "77sc2-9qa3", "xqascqa9")] == ["sc", "qa", "qa", "qa"]
    for name, said in (
        ("1a2sc12", "more than one digit"),
        ("1a2qa10", "more than one digit"),
        ("1a2", "neither sc nor qa"),
        ("", "neither sc nor qa"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            form_of(name)
        assert caught.value.private == (name,)


def test_a_question_is_right_only_as_a_whole():
    row = {"id": "aqa0", "source": "forget", "task": "Task1", "output": "Madera"}
    outputs = ["Madera", " madera\n", "MADERA", "Madera.", "It is Madera", ""]
    found = score_outputs([{**row, "id": f"aqa{n}"} for n in range(6)], outputs)
    assert found.values.tolist() == [1, 1, 1, 0, 0, 0]
    example = found.example("forget", "qa")
    assert example.direction == "remembers_above" and example.values.mean() == 0.5
    assert found.example("forget", "qa", "Task1").values.tolist() == example.values.tolist()


def test_a_completion_is_scored_by_recall_of_stemmed_words():
    row = {"id": "asc1", "source": "retain", "task": "Task2", "output": "She walked home slowly, singing."}
    outputs = ["She walks home, slowly sings and then many more words follow", "home she walked", "", row["output"]]
    found = score_outputs([row] * 4, outputs)
    np.testing.assert_allclose(found.values, [1, 2 / 5, 0, 1])
    assert found.example("retain", "sc").direction == "useful_above"


def test_cells_are_means_and_those_of_forget_are_turned_round():
    found = score_outputs(rows(1), [row["output"] if n % 3 == 1 else "no" for n, row in enumerate(rows(1))])
    # of two questions one is right; completions share no word
    assert found.cells == {cell: {"sc": float(cell[0] == "forget"), "qa": 0.5}[cell[2]] for cell in CELLS}
    figures = found.figures(RNG(0), n_resamples=200)
    assert len(figures) == 12 and figures["lume_knowledge_forget_Task1"].value == 0.5
    assert figures["lume_regurgitation_forget_Task1"].value == 0.0


# ---- the aggregate


def test_the_aggregate_is_the_harmonic_mean():
    assert scores([0.5] * 6 + [1.0] * 6).aggregate == pytest.approx(12 / 18)
    for c in (0.3, 0.9999, 1.0):
        assert scores([c] * 12).aggregate == pytest.approx(c)


@pytest.mark.parametrize("cell", range(12))
def test_one_cell_of_zero_makes_the_aggregate_zero(cell):
    assert scores([0.0 if n == cell else 0.9 for n in range(12)]).aggregate == 0.0


def test_a_model_that_remembers_all_scores_nothing():
    found = score_outputs(rows(), [row["output"] for row in rows()])
    assert found.cells == {cell: float(cell[0] == "retain") for cell in CELLS}
    assert found.aggregate == 0.0
    assert LumeScore(found).destroyed is False


def test_a_retrained_model_does_not_reach_one():
    """It writes other sentences of the same sort, which share words with the true ones."""
    outputs = [row["output"] if row["source"] == "retain" else "The answer of nobody is 7." for row in rows()]
    found = score_outputs(rows(), outputs)
    assert found.cells["forget", "Task1", "sc"] == pytest.approx(1 - 4 / 6)
    assert found.cells["forget", "Task1", "qa"] == 1.0 and 0.5 < found.aggregate < 1.0


def test_without_rows_for_a_cell_there_is_no_aggregate():
    some = [row for row in rows() if (row["source"], row["task"]) != ("retain", "Task3")]
    found = score_outputs(some, [row["output"] for row in some])
    assert found.missing == (("retain", "Task3", "sc"), ("retain", "Task3", "qa"))
    assert found.aggregate is None and found.cells["retain", "Task3", "qa"] is None
    assert found.interval(RNG(0)).low is None and len(found.figures(RNG(0), n_resamples=100)) == 10
    score = LumeScore(found, LossAttack(0.5, NONE, 1, 1), 0.5)
    assert score.final is None and "no task aggregate" in score.sentence
    json.dumps(score.to_dict())


def test_the_interval_resamples_documents():
    draw = RNG(3)
    asked = rows(30)
    outputs = [row["output"] if draw.random() < 0.5 else "no" for row in asked]
    found = score_outputs(asked, outputs)
    interval = found.interval(RNG(0), n_resamples=400)
    assert interval.n_patients == 180 and interval.low < found.aggregate < interval.high
    again = score_outputs(asked[::-1], outputs[::-1])
    assert again.aggregate == pytest.approx(found.aggregate)


# ---- the attack


@pytest.mark.parametrize(("auc", "score"), [(0.0, 0.0), (0.5, 1.0), (1.0, 0.0), (0.75, 0.5), (0.25, 0.5)])
def test_the_attack_is_folded_at_one_half(auc, score):
    assert mia_score(auc) == score


def test_members_are_those_with_the_smaller_loss():
    known = loss_attack([1.0, 2.0], [3.0, 4.0, 5.0], RNG(0), n_resamples=100)
    assert (known.auc, known.score, known.n_members, known.n_nonmembers) == (1.0, 0.0, 2, 3)
    assert loss_attack([5.0, 6.0], [3.0, 4.0], RNG(0), n_resamples=100).auc == 0.0  # over-unlearned
    same = loss_attack([3.0, 4.0], [3.0, 4.0], RNG(0), n_resamples=100)
    assert (same.auc, same.score) == (0.5, 1.0)
    with pytest.raises(AuditError):
        loss_attack([], [1.0], RNG(0))
    with pytest.raises(AuditError):
        loss_attack([np.nan], [1.0], RNG(0))


# ---- the final score


@pytest.mark.parametrize(
    ("task", "mia", "mmlu", "final", "eligible"),
    [
        (0.827, 0.847, 0.443, 0.706, True),
        (0.944, 0.048, 0.471, 0.488, True),
        (0.964, 0.894, 0.275, 0.711, False),
        (0.0, 0.999, 0.229, 0.409, False),
        (0.0, 0.912, 0.269, 0.394, False),
        (0.021, 0.080, 0.463, 0.188, True),
    ],
    ids=["AILS-NTUA", "ZJUKLAB", "SHA256", "Cyber for AI", "gradient ascent", "NPO"],
)
def test_the_published_scores_are_the_mean_of_their_parts(task, mia, mmlu, final, eligible):
    found = LumeScore(scores([task] * 12), LossAttack(0.5 + (1 - mia) / 2, NONE, 150, 150), mmlu)
    assert found.final == pytest.approx(final, abs=6e-4)
    assert found.passes_gate is eligible
    assert ("not eligible" in found.sentence) is not eligible


def test_the_gate_is_an_option_and_must_be_passed_not_reached():
    assert LumeScore(scores([1] * 12), mmlu=0.371).passes_gate is False
    assert LumeScore(scores([1] * 12), mmlu=0.38, gate=0.4).passes_gate is False
    assert LumeScore(scores([1] * 12)).passes_gate is None
    with pytest.raises(DataError, match="MMLU"):
        LumeScore(scores([1] * 12), mmlu=37.1)


# ---- a model


@pytest.fixture
def folder(tmp_path):
    """All 12 cells, and documents that no model was trained on."""
    draw = RNG(0)
    people = iter(range(100))
    for source in ("forget", "retain"):
        made = [text_sets.lume_rows(f"p{next(people)}", task) for task in ("Task1", "Task2", "Task3") for _ in range(2)]
        write_lines(tmp_path / f"{source}.jsonl", itertools.chain(*made))
    for kind in ("member", "nonmember"):
        texts = [" ".join(draw.choice(WORDS[4:], int(draw.integers(5, 30)))) for _ in range(60)]
        write_lines(tmp_path / f"{kind}.jsonl", [{"id": n, "document": text} for n, text in enumerate(texts)])
    return tmp_path


def test_a_model_with_random_weights_scores_about_the_same_as_good_submissions_and_is_called_destroyed(folder):
    model, tokenizer = random_lm(), word_tokenizer()
    mmlu = score_choices(constant_lm({}), tokenizer, quiz()).accuracy().values.mean()
    found = lume_score(model, tokenizer, Lume(folder).load(), Lume(folder, part="mia").load(), rng=RNG(0), mmlu=mmlu,
                       decoding=Decoding(max_new_tokens=12))  # fmt: skip
    assert found.tasks.aggregate == 0.0 and mmlu == 0.25
    assert found.mia.score > 0.75 and (found.mia.n_members, found.mia.n_nonmembers) == (60, 60)
    assert 0.33 < found.final < 0.42, "the number alone says nothing"
    assert found.destroyed is True and found.passes_gate is False
    assert "destroyed" in found.sentence and "not eligible" in found.sentence
    said = json.loads(json.dumps(found.to_dict()))
    assert said["destroyed"] and said["cells"]["forget/Task1/qa"] == 1.0 and said["final"] == found.final


def test_rows_keep_their_cells_and_their_documents(folder):
    data = Lume(folder).load()
    found = write_outputs(random_lm(), word_tokenizer(), data, decoding=Decoding(max_new_tokens=2))
    assert len(found.values) == len(data) == 36 and len(set(found.documents)) == 12
    assert [found.forms.count(form) for form in ("sc", "qa")] == [12, 24]
    half = write_outputs(random_lm(), word_tokenizer(), data, range(5), decoding=Decoding(max_new_tokens=2))
    np.testing.assert_array_equal(half.values, found.values[:5])


def test_what_is_written_is_scored_without_the_input(folder):
    """A model that says nothing but "town" answers every question of the made-up sets, and completes nothing else."""
    model = constant_lm({"town": 9.0})
    found = write_outputs(model, word_tokenizer(), Lume(folder).load(), decoding=Decoding(max_new_tokens=1))
    for (_, _, form), value in zip(CELLS, (found.example(s, f, t).values.mean() for s, t, f in CELLS), strict=True):
        assert value == {"qa": 1.0, "sc": pytest.approx(1 / 4)}[form]  # "p3 Town in 1870."
    assert LumeScore(found).destroyed is False


def test_blanks_before_marks_are_taken_away_as_the_script_does(tmp_path, monkeypatch):
    assert lume_run._clean("a , b . c ' d n't 's ! ?") == "a, b. c'dn't's!?"
    monkeypatch.setattr(lume_run, "continue_texts", lambda _, __, prompts, *___, **____: [["Town ."] for _ in prompts])
    answered = [{**row, "output": "Town."} for row in text_sets.lume_rows("p")]
    for source, made in (("forget", answered), ("retain", text_sets.lume_rows("q"))):
        write_lines(tmp_path / f"{source}.jsonl", made)
    data = Lume(tmp_path).load()
    for clean_up, value in ((True, 1.0), (False, 0.0)):
        found = write_outputs(None, None, data, clean_up=clean_up)
        assert found.example("forget", "qa").values.tolist() == [value] * 2


def test_the_loss_of_a_document_is_that_of_transformers():
    model, tokenizer = random_lm(), word_tokenizer()
    texts = ["red town", "the old mirrors sells new", "blue " * 20]
    found = document_nll(model, tokenizer, texts, batch_size=2)
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer.encode(text, special=True)[0]])
        with torch.no_grad():
            assert value == pytest.approx(float(model.lm(ids, labels=ids).loss), abs=1e-5)
    cut = document_nll(model, tokenizer, ["blue " * 20], max_length=6)
    assert cut == pytest.approx(document_nll(model, tokenizer, ["blue " * 5]))
    with pytest.raises(DataError, match="do not fit"):
        document_nll(random_lm(positions=8), tokenizer, texts)


def test_members_are_the_files_members(tmp_path):
    for kind, word in (("member", "red"), ("nonmember", "blue")):
        write_lines(tmp_path / f"{kind}.jsonl", [{"document": " ".join([word] * n)} for n in (2, 5, 9)])
    documents, tokenizer = Lume(tmp_path, part="mia").load(), word_tokenizer()
    known = attack_documents(constant_lm({"red": 5.0}), tokenizer, documents, RNG(0))
    assert (known.auc, known.score, known.n_members) == (1.0, 0.0, 3)
    assert attack_documents(constant_lm({"blue": 5.0}), tokenizer, documents, RNG(0)).auc == 0.0
    same = attack_documents(constant_lm({}), tokenizer, documents, RNG(0), max_length=3)
    assert (same.auc, same.score) == (0.5, 1.0)


def test_what_is_no_lume_is_refused(folder):
    model, tokenizer = random_lm(), word_tokenizer()
    data, documents = Lume(folder).load(), Lume(folder, part="mia").load()
    with pytest.raises(DataError, match="no rows of LUME"):
        write_outputs(model, tokenizer, documents)
    with pytest.raises(DataError, match="no documents"):
        attack_documents(model, tokenizer, data, RNG(0))
    with pytest.raises(DataError, match="3 samples"):
        write_outputs(model, tokenizer, data, decoding=Decoding(temperature=1.0, samples=3))
    with pytest.raises(DataError, match="1 outputs for 0 rows"):
        score_outputs([], [""])
    for changed, said in (({"source": "forgotten"}, "source"), ({"task": "Task4"}, "task")):
        with pytest.raises(DataError, match=f"1 rows have a {said}"):
            score_outputs([{**rows()[0], **changed}], [""])
    write_lines(folder / "forget.jsonl", [{**text_sets.lume_rows("x")[0], "id": "xsc10"}])
    with pytest.raises(DataError, match="more than one digit"):
        write_outputs(model, tokenizer, Lume(folder).load(), decoding=Decoding(max_new_tokens=1))


@pytest.mark.skipif(not text_sets.LUME.is_dir(), reason="the open release of LUME is not here")
def test_the_open_release_has_all_cells_and_nothing_to_leave_out():
    data = Lume(text_sets.LUME).load()
    assert len(data) == 2732 + 2734
    chosen = [data[i] for i in range(0, len(data), 37)]
    asked = [
        {"id": r.sample_id, "source": r.attributes["source_split"], "task": r.attributes["task"],
         "output": r.value("dialogue")["answer"]} for r in chosen
    ]  # fmt: skip
    assert [form_of(r.sample_id) for r in data] == [r.attributes["form"] for r in data]
    outputs = [row["output"][: len(row["output"]) // 2] if n % 2 else row["output"] for n, row in enumerate(asked)]
    found = score_outputs(asked, outputs)
    assert not found.missing
    scorer = RougeScorer(["rougeL"], use_stemmer=True)  # as the script does it, row by row
    for cell, value in found.cells.items():
        there = [i for i, row in enumerate(asked) if (row["source"], row["task"], form_of(row["id"])) == cell]
        true = [
            scorer.score(asked[i]["output"], outputs[i])["rougeL"].recall if cell[2] == "sc"
            else asked[i]["output"].strip().lower() == outputs[i].strip().lower() for i in there
        ]  # fmt: skip
        assert value == pytest.approx(1 - np.mean(true) if cell[0] == "forget" else np.mean(true))
