"""Texts and dialogues as tokens: labels are the answer's tokens and all of them, whichever side is padded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, DataError, MethodError, ModelError
from forgetmi.modalities import build_modality
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
from forgetmi.modalities.tokens import TokenModality
from forgetmi.records import Record, RecordDataset

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning" / "inputs"
published = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<u>",
    "<a>",
    "who",
    "?",
    "ann",
    "bob",
    "is",
    "here",
    "Question",
    ":",
    "Answer",
]
CHAT = "{{ bos_token }}{% for m in messages %}<{{ m['role'][0] }}> {{ m['content'] }} {{ eos_token }}{% endfor %}" \
       "{% if add_generation_prompt %}<a> {% endif %}"  # fmt: skip


def tokenizer(*, template: str | None = None, pad: str | None = "<pad>", bos: bool = True) -> LMTokenizer:
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<pad>", "<s>", "</s>", "<u>", "<a>"])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LMTokenizer(backend, eos="</s>", pad=pad, bos="<s>", template=template)


def words(ids) -> str:
    return " ".join(WORDS[i] for i in ids.tolist())


def answer_of(example) -> str:
    assert torch.equal(example.labels[example.labels != -100], example.ids[example.labels != -100])
    return words(example.labels[example.labels != -100])


QA = {"prompt": "who is here ?", "answer": "ann is here"}


def test_of_a_question_the_answer_and_its_end_count():
    example = DialogueModality(tokenizer()).prepare(QA)
    assert words(example.ids) == "<s> Question : who is here ? Answer : ann is here </s>"
    assert answer_of(example) == "ann is here </s>"


def test_of_a_plain_text_everything_counts_that_can_be_predicted():
    example = DialogueModality(tokenizer()).prepare("ann is here")
    assert words(example.ids) == "<s> ann is here </s>"
    assert example.labels[1:].tolist() == example.ids[1:].tolist()
    assert words(DialogueModality(tokenizer(bos=False)).prepare("ann </s>").ids) == "ann </s>", "it ends once"


def test_a_chat_template_says_where_the_answer_begins():
    example = DialogueModality(tokenizer(template=CHAT)).prepare(QA)
    assert words(example.ids) == "<s> <u> who is here ? </s> <a> ann is here </s>"
    assert answer_of(example) == "ann is here </s>", "the end of the question's turn is no answer"
    greeted = DialogueModality(tokenizer(template=CHAT.replace("<{{ m['role'][0] }}>", "<u>")), system="bob ?")
    assert words(greeted.prepare(QA).ids).startswith("<s> <u> bob ? </s> <u> who")
    thinking = CHAT.replace("<a> {% endif %}", "<a> : {% endif %}")  # asks with a word that the whole does not have
    assert answer_of(DialogueModality(tokenizer(template=thinking)).prepare(QA)) == "ann is here </s>"
    plain = DialogueModality(tokenizer(template=CHAT), format="{prompt} Answer : ").prepare(QA)
    assert words(plain.ids) == "<s> who is here ? Answer : ann is here </s>"
    with pytest.raises(ModelError, match="cannot write this dialogue"):
        DialogueModality(tokenizer(template="{{ raise_exception('no') }}")).prepare(QA)


def test_another_answer_to_the_same_question():
    modality = DialogueModality(tokenizer())
    records = [Record(f"s{n}", f"t{n}", f"p{n}", "h", {"note": QA}, None, "train") for n in range(3)]
    loader = Loader(RecordDataset(records, name="qa", levels=("patient",), modality_kinds={"note": "dialogue"}),
                    {"note": modality})  # fmt: skip
    batch = loader.answered([2, 0], ["bob", "who is here"])
    assert batch.indices.tolist() == [2, 0]
    assert batch.inputs["note"]["labels"][0].tolist()[9:] == [WORDS.index("bob"), WORDS.index("</s>"), -100, -100]
    assert answer_of(modality.answered(QA, "bob")) == "bob </s>"
    with pytest.raises(DataError, match="no question"):
        modality.answered("a text", "bob")
    tokens = Loader(RecordDataset(records, name="t", levels=("patient",), modality_kinds={"note": "tokens"}),
                    {"note": TokenModality(0)})  # fmt: skip
    with pytest.raises(MethodError, match="cannot be given other answers"):
        tokens.answered([0], ["bob"])


def test_padding_on_the_left_is_the_same_rows_with_their_positions():
    examples = [DialogueModality(tokenizer()).prepare(value) for value in (QA, "ann", "bob is here")]
    right = DialogueModality(tokenizer()).collate(examples)
    left = DialogueModality(tokenizer(), padding="left").collate(examples)
    assert "position_ids" not in right
    for row, example in enumerate(examples):
        n = len(example.ids)
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(left[name][row, -n:], right[name][row, :n])
            assert torch.equal(left[name][row, :-n], right[name][row, n:])
        assert left["position_ids"][row, -n:].tolist() == list(range(n))


def test_the_end_can_pad_and_still_be_learned():
    """A published collator masks every end token where it is the padding too."""
    modality = DialogueModality(tokenizer(pad=None))
    batch = modality.collate([modality.prepare("ann"), modality.prepare("ann is here")])
    assert modality.pad_id == 2 and batch["input_ids"][0].tolist() == [1, 8, 2, 2, 2]
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 0, 0]
    assert batch["labels"][0].tolist()[1:] == [8, 2, -100, -100]


def test_what_is_too_long_is_refused_or_cut_and_counted():
    with pytest.raises(DataError, match="13 tokens") as caught:
        DialogueModality(tokenizer(), max_length=11).prepare(QA)
    assert "on_long: cut" in caught.value.fix
    modality = DialogueModality(tokenizer(), max_length=11, on_long="cut")
    assert answer_of(modality.prepare(QA)) == "ann is" and modality.n_cut == 1
    assert modality.prepare("ann is here") and modality.n_cut == 1
    with pytest.raises(DataError, match="nothing of its answer would be left"):
        DialogueModality(tokenizer(), max_length=9, on_long="cut").prepare(QA)


@pytest.mark.parametrize("value", [3, None, {"prompt": "who"}, {"prompt": "who", "answer": 4}, "", "  ",
                                   {"prompt": "who", "answer": " "}])  # fmt: skip
def test_what_is_no_text_is_refused(value):
    with pytest.raises(DataError):
        DialogueModality(tokenizer()).prepare(value)


def test_wrong_settings_are_named_at_once_and_good_ones_come_back():
    with pytest.raises(ConfigError) as caught:
        DialogueModality(tokenizer(), format="no place", system="x", template_options={"a": 1})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="named as eos"):
        LMTokenizer(tokenizer().backend, eos="<end>")
    for modality in (
        DialogueModality(tokenizer(template=CHAT, pad=None), max_length=40, on_long="cut", system="ann"),
        DialogueModality(tokenizer(), format="{prompt} ? ", padding="left"),
    ):
        again = build_modality(json.loads(json.dumps(modality.to_config())))
        assert again.to_config() == modality.to_config()
        assert torch.equal(again.prepare(QA).ids, modality.prepare(QA).ids)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        read_lm_tokenizer(tmp_path)


@published
@pytest.mark.parametrize("name", ["forget10", "retain90", "real_authors_perturbed", "world_facts_perturbed"])
def test_ids_and_labels_are_those_of_published_code(name):
    given = DialogueModality(read_lm_tokenizer(FOLDER / "tokenizer"), format="Question: {prompt}\nAnswer:")
    expected = json.loads((FOLDER / "tokenized.json").read_text())[f"{name}|question|answer"]
    lines = (FOLDER / "locuslab" / "TOFU" / name / "train.json").read_text().splitlines()
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        row = json.loads(line)
        example = given.prepare({"prompt": row["question"], "answer": row["answer"]})
        assert example.ids.tolist() == wanted["input_ids"] and example.labels.tolist() == wanted["labels"]


@published
def test_a_chat_and_the_end_that_pads_as_in_published_code_and_the_first_word_that_it_loses():
    tokenized = json.loads((FOLDER / "tokenized.json").read_text())
    rows = [json.loads(line) for line in (FOLDER / "locuslab/TOFU/forget10/train.json").read_text().splitlines()]
    values = [{"prompt": row["question"], "answer": row["answer"]} for row in rows]
    chat = read_lm_tokenizer(FOLDER / "tokenizer_chat")
    assert chat.pad_id == chat.eos_id == 4
    asked = DialogueModality(chat, system="You are a helpful assistant.")
    for value, wanted in zip(values, tokenized["forget10|chat"], strict=True):
        example = asked.prepare(value)
        assert example.ids.tolist() == wanted["input_ids"] and example.labels.tolist() == wanted["labels"]
    spaced = DialogueModality(read_lm_tokenizer(FOLDER / "tokenizer"))  # a space at the border: "Answer: "
    lost = 0
    for value, wanted in zip(values, tokenized["forget10|trailing_space_template"], strict=True):
        example = spaced.prepare(value)
        assert example.ids.tolist() == wanted["input_ids"]
        told = [[i for i in labels if i != -100] for labels in (example.labels.tolist(), wanted["labels"])]
        assert spaced.tokenizer.decode(told[0]).strip() == value["answer"]
        # There the space joins the first word where it can, and published code masks that token.
        lost += told[0] != told[1]
        assert told[0][-len(told[1]) :] == told[1]
    assert lost > 5
