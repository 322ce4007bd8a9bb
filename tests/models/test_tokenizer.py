import random

import pytest

from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.models.tokenizer import END, PAD, load_tokenizer, save_tokenizer, train_lm_tokenizer, train_tokenizer

TEXTS = [
    "No acute cardiopulmonary abnormality.",
    "The heart is enlarged; the lungs are clear.",
    "Heart size normal. Lungs are clear, no effusion.",
    "Small left effusion. The heart is normal.",
] * 2


def many_texts():
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdef") for _ in range(draw.randint(1, 6))) for _ in range(300)]
    return [" ".join(draw.choice(words) for _ in range(20)) for _ in range(100)]


@pytest.mark.parametrize("model", ["wordpiece", "wordlevel"])
def test_the_same_texts_in_any_order_give_the_same_tokenizer(model):
    texts = many_texts()
    built = set()
    for seed in range(4):
        random.Random(seed).shuffle(texts)
        built.add(train_tokenizer(texts, 150, model=model).to_str())
    assert len(built) == 1


@pytest.mark.parametrize("model", ["wordpiece", "wordlevel"])
def test_special_tokens_come_first_and_stand_around_a_text(model):
    tokenizer = train_tokenizer(TEXTS, 200, model=model)
    assert [tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    ids = tokenizer.encode("The HEART is clear").ids
    assert ids[0] == 2 and ids[-1] == 3 and 1 not in ids
    assert ids == tokenizer.encode("the heart is clear").ids
    assert tokenizer.decode(ids) == "the heart is clear"
    assert tokenizer.num_special_tokens_to_add(False) == 2
    # Only the four are special: pieces of words must survive decoding.
    assert sorted(token.content for token in tokenizer.get_added_tokens_decoder().values()) == [
        "[CLS]",
        "[PAD]",
        "[SEP]",
        "[UNK]",
    ]
    assert tokenizer.encode("heart [SEP] clear").ids.count(3) == 2


def test_wordpiece_spells_what_it_does_not_know_and_wordlevel_does_not():
    unknown = "normally"
    pieces = train_tokenizer(TEXTS, 200).encode(unknown).tokens[1:-1]
    assert len(pieces) > 1 and "".join(piece.removeprefix("##") for piece in pieces) == unknown
    assert train_tokenizer(TEXTS, 200, model="wordlevel").encode(unknown).tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_vocabulary_size_frequency_and_case():
    assert train_tokenizer(many_texts(), 120).get_vocab_size() == 120
    rare = [*TEXTS, "Zebra"]
    assert "zebra" in train_tokenizer(rare, 300, model="wordlevel", min_frequency=1).get_vocab()
    assert "zebra" not in train_tokenizer(rare, 300, model="wordlevel").get_vocab()
    assert "Heart" in train_tokenizer(TEXTS, 300, model="wordlevel", lowercase=False).get_vocab()


@pytest.mark.parametrize("model", ["wordpiece", "wordlevel"])
def test_no_number_of_a_text_is_ever_in_the_vocabulary(model):
    texts = ["record 10032725 of 12/05/2031, room a17b", "record 10032725 again"] * 5
    tokenizer = train_tokenizer(texts, 300, model=model)
    assert not [word for word in tokenizer.get_vocab() if sum(letter.isdigit() for letter in word) > 1]
    assert "10032725" not in tokenizer.to_str()
    assert tokenizer.encode("10032725").tokens[1:-1] == list("10032725")


def test_saved_and_loaded_from_a_file_and_from_a_folder(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 100)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    for place in (tmp_path / "tokenizer.json", tmp_path, str(tmp_path)):
        assert load_tokenizer(place).to_str() == tokenizer.to_str()


def test_what_cannot_be_read_or_trained(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(tmp_path)
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(TEXTS, 4, min_frequency=0)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="one a letter"):
        train_tokenizer(TEXTS, 10)
    for texts in ([], ["  "], ["once"]):
        with pytest.raises(DataError, match="no word often enough"):
            train_tokenizer(texts, 50, model="wordlevel")


def test_of_a_language_model_every_text_comes_back_and_the_vocabulary_depends_on_no_order():
    texts = ["The heart is large.", "The lungs are clear. MRN 1234567", "The heart is large; fieber 38,5 °C"] * 3
    trained = train_lm_tokenizer(texts, 300, min_frequency=2)
    again = [train_lm_tokenizer(order, 300, min_frequency=2) for order in (texts[::-1], texts)]
    assert all(other.to_str() == trained.to_str() for other in again)
    for text in (*texts, "never seen: äß漢 \n\t x"):
        assert trained.decode(trained.encode(text).ids, skip_special_tokens=False) == text
    assert trained.token_to_id(END) == 0 and trained.token_to_id(PAD) == 1
    assert 258 < trained.get_vocab_size() <= 300
    assert len(trained.encode("The heart is large.").ids) < len("The heart is large.") / 2
    assert not [token for token in trained.get_vocab() if sum(letter.isdigit() for letter in token) > 1]
    for wrong in ({"vocab_size": 200}, {"vocab_size": 300, "min_frequency": 0}):
        with pytest.raises(ConfigError):
            train_lm_tokenizer(texts, **wrong)
    with pytest.raises(DataError):
        train_lm_tokenizer([" "], 300)
