"""Harm and refusal: by classifiers whose answer is known, and by a local folder against the plain model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from forgetmi.data_adapters.safe_rlhf import SafeRlhf
from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.harm_classifier import LocalClassifier
from forgetmi.metrics.safe_rlhf import WordList, harmful_completions, judge, refusals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.training.seeds import scoped_seed
from tests.data_adapters import text_sets
from tests.metrics.choice_files import WORDS, constant_lm, random_lm, word_tokenizer


class Told:
    """A classifier that says what it was told."""

    name = "told"

    def __init__(self, values):
        self.values = values

    def __call__(self, prompts, completions):
        return np.array(self.values)


# ---- rates


def test_rates_by_hand():
    texts = ["Sure, here is how.", "I'm sorry, but no.", "First, ...", "I cannot help with it.", "Take a knife."]
    found = judge(["p"] * 5, texts, Told([0.9, 0.6, 0.5, 0.1, 0.2]))
    assert found.harmful.values.tolist() == [1, 1, 1, 0, 0]  # a threshold that is reached counts
    assert found.refusal.values.tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_array_equal(found.complied.values, [1, np.nan, 1, np.nan, 0])
    figure = found.complied.figure(np.arange(5), np.random.default_rng(0))
    assert figure.value == pytest.approx(2 / 3) and figure.counts == {"n_without_value": 2}
    assert found.mean_probability.values.mean() == pytest.approx(0.46)
    assert found.harmful.direction == "remembers_above" and found.refusal.direction == "remembers_below"
    assert "told, harmful from probability 0.5 on" in found.harmful.definition
    stricter = judge(["p"] * 5, texts, Told([0.9, 0.6, 0.5, 0.1, 0.2]), threshold=0.55)
    assert stricter.harmful.values.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I cannot do that.", True),
        ("I’m sorry, I won’t.", True),
        ("SORRY? i  CAN'T\nsay", True),
        ("A CANNOTation", False),
        ("Mi cannoth", False),
        ("Sure! " + "word " * 40 + "I cannot say more.", False),
        ("", False),
        ("It is easy: begin with this.", False),
    ],
)
def test_a_refusal_is_a_phrase_among_the_first_words(text, refuses):
    assert refusals([text]).tolist() == [refuses]


def test_phrases_of_refusal_are_an_option():
    assert refusals(["Nein, das geht nicht."], ["das geht nicht"]).tolist() == [True]
    assert refusals(["a b das geht nicht"], ["das geht nicht"], first_words=3).tolist() == [False]


def test_the_list_of_words_finds_whole_words_and_says_that_it_is_a_baseline():
    listed = WordList(("bomb", "kill  him", "c++"))
    texts = ["A BOMB.", "bombast", "kill\nhim now", "kill her", "use C++!", ""]
    assert listed([""] * 6, texts).tolist() == [1, 0, 1, 0, 1, 0]
    assert "baseline" in listed.name
    for words in ((), ("a", " "), "bomb"):
        with pytest.raises(ConfigError, match="words"):
            WordList(words)


def test_what_is_no_probability_of_each_is_refused():
    for values in ([0.5], [0.5, 1.5], [0.5, -0.1], [0.5, math.nan], [[0.5, 0.5]]):
        with pytest.raises(ModelError, match="told"):
            judge(["p", "q"], ["a", "b"], Told(values))
    with pytest.raises(DataError, match="1 completions of 2"):
        judge(["p", "q"], ["a"], Told([0.1]))
    with pytest.raises(DataError, match="0 completions"):
        judge([], [], Told([]))
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(ConfigError, match="threshold"):
            judge(["p"], ["a"], Told([0.1]), threshold=threshold)


# ---- a model that is asked


def test_each_prompt_is_asked_once_and_judged(tmp_path):
    data = SafeRlhf(text_sets.write_safe_rlhf(tmp_path)).load()
    assert len(data) == 10  # two answers a row, one row of which stands twice
    modality = DialogueModality(word_tokenizer(), format="Question: {prompt}\nAnswer: ")
    decoding = Decoding(max_new_tokens=2)
    found = harmful_completions(
        constant_lm({"red": 9.0}), modality, data, range(len(data)), WordList(("red",)), decoding=decoding
    )
    distinct = {record.value("dialogue")["prompt"] for record in data}
    assert sorted(found.prompts) == sorted(distinct) and len(found.prompts) == 4
    assert set(found.completions) == {"red red"} and found.harmful.values.tolist() == [1.0] * 4
    assert "greedily, at most 2 tokens" in found.harmful.definition and "baseline" in found.harmful.definition
    model = random_lm()
    one = harmful_completions(model, modality, data, [3], WordList(("red",)), decoding=decoding)
    whole = harmful_completions(model, modality, data, range(10), WordList(("red",)), decoding=decoding, batch_size=3)
    assert one.completions[0] == whole.completions[whole.prompts.index(one.prompts[0])]
    with pytest.raises(DataError, match="2 samples"):
        harmful_completions(model, modality, data, [0], WordList(("x",)), decoding=Decoding(temperature=1.0, samples=2))
    texts = SafeRlhf(tmp_path).load()
    object.__setattr__(texts[0], "modalities", {"dialogue": "a text"})
    with pytest.raises(DataError, match="no prompt"):
        harmful_completions(model, modality, texts, [0], WordList(("x",)))


# ---- a local folder


@pytest.fixture
def folder(tmp_path):
    return write_classifier(tmp_path / "judge", {0: "safe", 1: "harm", 2: "hate"})


def write_classifier(path, labels, **more):
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=24, pad_token_id=0, initializer_range=0.5,
                        num_labels=len(labels), id2label=labels, label2id={v: k for k, v in labels.items()},
                        **more)  # fmt: skip
    with scoped_seed(0):
        BertForSequenceClassification(config).save_pretrained(path)
    backend = word_tokenizer().backend
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


PROMPTS = ["which town ?", "the old", "who sells mirrors ?", "red"]
TEXTS = ["red blue green", "new", "the old town sells new red mirrors", ""]


def plain(folder, text, pair=None):
    """Logits of one text, or of one and another, without a batch."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer([text], pair, return_tensors="pt")).logits[0].double()


@pytest.mark.parametrize("reads", ["completion", "pair", "Question : {prompt} Answer : {completion} ?"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folder_says_what_the_plain_model_says(folder, reads, batch_size):
    classifier = LocalClassifier(folder, ("harm", 2), reads=reads, batch_size=batch_size)
    found = classifier(PROMPTS, TEXTS)
    for prompt, text, value in zip(PROMPTS, TEXTS, found, strict=True):
        if reads == "pair":
            logits = plain(folder, prompt, [text])
        else:
            logits = plain(folder, text if reads == "completion" else f"Question : {prompt} Answer : {text} ?")
        assert value == pytest.approx(float(logits.softmax(0)[1:].sum()), abs=1e-5)
    assert len({round(float(value), 4) for value in found}) == 4, "a test that could not fail"
    assert "judge (harm, 2)" in classifier.name


def test_labels_that_do_not_exclude_each_other(tmp_path):
    folder = write_classifier(tmp_path / "m", {0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification")
    found = LocalClassifier(folder, ("a", "c"))(PROMPTS, TEXTS)
    expected = [float(plain(folder, text).sigmoid()[[0, 2]].max()) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    single = write_classifier(tmp_path / "s", {0: "harm"})
    found = LocalClassifier(single, ("harm",))(PROMPTS, TEXTS)
    np.testing.assert_allclose(found, [float(plain(single, text).sigmoid()[0]) for text in TEXTS], atol=1e-5)


def test_braces_in_texts_stay_and_long_texts_lose_their_end(folder):
    classifier = LocalClassifier(folder, ("harm",), reads="{prompt} {completion}")
    assert classifier._written("a {completion}", "{prompt} b") == "a {completion} {prompt} b"
    long = LocalClassifier(folder, ("harm",))([""], ["red " * 200])
    assert long == pytest.approx(LocalClassifier(folder, ("harm",))([""], ["red " * 23]))  # <s> and 23 words
    cut = LocalClassifier(folder, ("harm",), max_length=4)([""], ["red " * 200])
    assert cut == pytest.approx(LocalClassifier(folder, ("harm",))([""], ["red red red"]))


def test_what_is_wrong_with_a_classifier_is_said(folder, tmp_path):
    with pytest.raises(ConfigError) as caught:
        LocalClassifier(tmp_path / "none", (), reads="{prompt}", batch_size=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError) as caught:
        LocalClassifier(folder, ("harmful", 7))(PROMPTS, TEXTS)
    assert "Did you mean 'harm'" in str(caught.value) and len(caught.value.problems) == 2
    body = BertForSequenceClassification.from_pretrained(folder).bert
    body.save_pretrained(folder)  # without a head
    with pytest.raises(ModelError, match="have no weights"):
        LocalClassifier(folder, ("harm",))(PROMPTS, TEXTS)
    (folder / "model.safetensors").write_bytes(b"no such file")
    with pytest.raises(ModelError, match="cannot be read"):
        LocalClassifier(folder, ("harm",))(PROMPTS, TEXTS)
