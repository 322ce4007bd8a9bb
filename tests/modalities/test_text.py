"""Text: truncation keeps the closing token, padding follows the batch, noise works on the words."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from forgetmi.batch import Loader
from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities import build_modality
from forgetmi.modalities.text import TextModality
from forgetmi.modalities.text_noise import TextNoise
from forgetmi.records import Record, RecordDataset

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "heart", "is", "large", "clear", "lungs", "[NOISE]"]
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def word_tokenizer(special=True):
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return tokenizer


def words(ids):
    return [VOCABULARY[i] for i in ids.tolist()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ids_and_truncation_that_keeps_the_closing_token():
    assert words(TextModality(word_tokenizer()).prepare("heart is large")) == ["[CLS]", "heart", "is", "large", "[SEP]"]
    assert words(TextModality(word_tokenizer(), 4).prepare("heart is large")) == ["[CLS]", "heart", "is", "[SEP]"]


def test_collate_pads_to_the_batch_and_not_to_the_limit():
    modality = TextModality(word_tokenizer(), 320)
    batch = modality.collate([modality.prepare("heart"), modality.prepare("heart is large"), modality.blank()])
    assert batch["input_ids"].tolist() == [[2, 4, 3, 0, 0], [2, 4, 5, 6, 3], [0, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    only_blank = modality.collate([modality.blank()])
    assert only_blank["input_ids"].tolist() == [[0]] and only_blank["attention_mask"].tolist() == [[0]]


def test_the_given_tokenizer_keeps_its_own_settings():
    tokenizer = word_tokenizer()
    tokenizer.enable_padding(length=50)
    modality = TextModality(tokenizer, 4)
    assert len(modality.prepare("heart")) == 3
    assert tokenizer.truncation is None and tokenizer.padding["length"] == 50


@pytest.mark.parametrize("value", ["", "  \n", None, 3, b"heart"])
def test_bad_texts_are_refused(value):
    with pytest.raises(DataError):
        TextModality(word_tokenizer()).prepare(value)


def test_a_text_without_a_token_is_refused():
    tokenizer = Tokenizer(models.WordPiece({"[PAD]": 0}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("x")
    with pytest.raises(DataError, match="no token"):
        TextModality(tokenizer).prepare("xxx")


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError) as caught:
        TextModality(word_tokenizer(), 2, pad_token="<pad>")  # two special tokens leave no room for a word
    assert len(caught.value.problems) == 2
    assert TextModality(word_tokenizer(special=False), 1).prepare("heart large").tolist() == [4]


def test_perturb_works_on_the_words_and_tokenises_again():
    modality = TextModality(word_tokenizer())
    noise = TextNoise(level=0, keywords=("heart",), kinds=("keywords",))
    noisy = modality.perturb(lambda: "heart is large", modality.prepare("heart is large"), noise, generator())
    assert words(noisy) == ["[CLS]", "[NOISE]", "is", "large", "[SEP]"]


def test_item_2_noise_off_gives_the_clean_example():
    modality = TextModality(word_tokenizer())
    clean = modality.prepare("heart  is large")
    assert torch.equal(modality.perturb(lambda: "heart  is large", clean, {"level": 0.0}, generator()), clean)


def test_a_mapping_keeps_the_default_keywords():
    modality = TextModality(word_tokenizer(), noise=TextNoise(level=1, keywords=("heart",), kinds=("keywords",)))
    clean = modality.prepare("heart is large")
    assert words(modality.perturb(lambda: "heart is large", clean, {"level": 0.0}, generator()))[1] == "[NOISE]"
    assert modality.default_noise.keywords == ("heart",)


def test_config_comes_back_through_json():
    modality = TextModality(word_tokenizer(), 5)
    again = build_modality(json.loads(json.dumps(modality.to_config())))
    text = "heart is large clear lungs"
    assert torch.equal(again.prepare(text), modality.prepare(text)) and again.to_config() == modality.to_config()


def _loader():
    records = [
        Record(f"s{i}", f"t{i}", f"p{i}", "", {"report": "heart is large clear lungs " * 4}, 0, "train")
        for i in range(4)
    ]
    dataset = RecordDataset(records, name="made", levels=["patient"], modality_kinds={"report": "text"})
    return Loader(dataset, {"report": TextModality(word_tokenizer())})


def test_row_10_noise_is_fresh_each_epoch_and_repeats_for_the_same_epoch():
    """The published code tossed its coin once per report and cached the result."""
    loader, noise = _loader(), {"text": TextNoise(level=0.5)}

    def ids(indices, epoch):
        return loader.noisy_batch(indices, noise, seed=1, epoch=epoch).inputs["report"]["input_ids"]

    def lists(indices, epoch):
        return [[t for t in row if t != 0] for row in ids(indices, epoch).tolist()]

    assert lists([0, 1, 2, 3], 0) != lists([0, 1, 2, 3], 1)
    assert lists([0, 1, 2, 3], 0) == lists([0, 1, 2, 3], 0)
    # Batch size and order change nothing.
    assert lists([3, 1], 0) == [lists([0, 1, 2, 3], 0)[3], lists([0, 1, 2, 3], 0)[1]]


def test_row_10_both_levels_occur_over_the_epochs_of_one_report():
    loader, noise = _loader(), {"text": TextNoise(level=0.5)}
    with_unknown = 0
    for epoch in range(40):
        batch = loader.noisy_batch([0], noise, seed=3, epoch=epoch).inputs["report"]["input_ids"]
        with_unknown += bool((batch == IDS["[UNK]"]).any())  # only a changed character makes an unknown word
    assert 8 <= with_unknown <= 32  # a fair coin: 20 +- 3.2
