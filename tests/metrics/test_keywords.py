"""Keywords: found where they stand, whatever the tokens; both metrics by hand, and on a model of known answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from forgetmi.batch import Loader
from forgetmi.errors import AuditError, DataError
from forgetmi.metrics.keywords import keyword_accuracy, keyword_confidence, keyword_mask, likely_keywords
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask


def letters() -> LMTokenizer:
    """Bytes, with some pairs merged: ``" E"`` joins a space, ``"4,"`` a comma."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "E"), ("l", "m"), ("4", ","), ("i", "r")]
    words = ["<end>", "<|user|>", "<|told|>", *alphabet, *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>", "<|user|>", "<|told|>"])
    return LMTokenizer(backend, eos="<end>")


def chat() -> LMTokenizer:
    """The same with a template that strips what is said."""
    template = (
        "{% for m in messages %}<|{{ 'user' if m.role == 'user' else 'told' }}|>{{ m.content | trim }}"
        "{{ '<end>' if m.role != 'user' else '' }}{% endfor %}{{ '<|told|>' if add_generation_prompt else '' }}"
    )
    return dataclasses.replace(letters(), template=template)


def marked(modality: DialogueModality, value, row) -> str:
    """The text of the marked tokens, one ``|`` between those that are apart."""
    labels = modality.prepare(value).labels[1:]
    tokens = labels[labels != -100].tolist()
    assert len(row) == len(tokens)
    stretches: list[list[int]] = []
    for n, on in enumerate(row):
        if on:
            stretches += [] if n and row[n - 1] else [[]]
            stretches[-1].append(tokens[n])
    return "|".join(map(modality.tokenizer.decode, stretches))


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        (["Elmira"], " Elmira| Elmira"),  # the token joins the space
        (["1964"], "1964,"),  # and here a comma
        (["Elm"], None),  # no whole word
        ([[0, 3], "born"], "She|born"),
        (["elmira"], None),
        (["née"], "née"),  # two bytes, one letter
        ([], ""),
    ],
)
@pytest.mark.parametrize("form", ["{prompt}\n", "Q: {prompt} A: ", None])
def test_keywords_mark_the_tokens_that_reach_into_them(form, keywords, found) -> None:
    modality = DialogueModality(letters() if form else chat(), format=form)
    value = {"prompt": "Where?", "answer": "She née Elk born 1964, in Elmira, of Elmira", "keywords": keywords}
    if found is None:
        with pytest.raises(DataError, match="not in the answer") as caught:
            keyword_mask(modality, [{**value, "keywords": []}, value])
        assert caught.value.where == "record at position 1, keyword 1 of its list"
        assert keywords[0] not in str(caught.value)
    else:
        assert marked(modality, value, keyword_mask(modality, [value])[0]) == found


def test_an_answer_with_space_around_it_is_marked_at_the_same_letters() -> None:
    for modality in (DialogueModality(chat()), DialogueModality(letters(), format="{prompt}:")):
        value = {"prompt": "Where?", "answer": "  in Elmira ", "keywords": [[5, 11]]}
        assert marked(modality, value, keyword_mask(modality, [value])[0]).strip() == "Elmira"


def test_masks_have_a_column_for_each_answer_token_of_the_longest() -> None:
    modality = DialogueModality(letters(), format="{prompt}:")
    values = [{"prompt": "a", "answer": "b 1"}, {"prompt": "a", "answer": "c"}, "d 2"]
    mask = keyword_mask(modality, values)
    # "b", " ", "1", end | "c", end | (d is predicted by nothing) " ", "2", end
    assert mask.tolist() == [[False, False, True, False], [False] * 4, [False, True, False, False]]
    assert not keyword_mask(modality, values, annotate=None).any()
    upper = keyword_mask(modality, values, annotate=lambda text: [(0, 1)])
    assert upper.tolist() == [[True, False, False, False], [True, False, False, False], [False] * 4]


def test_keywords_that_no_token_can_show_are_refused() -> None:
    value = {"prompt": "a", "answer": "bcd efg", "keywords": ["efg"]}
    cut = DialogueModality(letters(), 6, format="{prompt}:", on_long="cut")
    with pytest.raises(DataError, match="no token that the model predicts"):
        keyword_mask(cut, [value])
    assert cut.n_cut == 0  # asking where tokens stand cuts nothing
    for wrong in ("efg", {"efg": 1}, 3):
        with pytest.raises(DataError, match="keywords were given as") as caught:
            keyword_mask(cut, [{**value, "keywords": wrong}])
        assert caught.value.where == "record at position 0"
    for wrong in ([[4, 9]], [[3, 3]], [" "], [None], [[1, 2, 3]]):
        with pytest.raises(DataError, match="not in the answer"):
            keyword_mask(cut, [{**value, "keywords": wrong}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She was born in Elmira on 12/03/1980.", ["Elmira", "12/03/1980"]),
        ("Maddox came. Then Anna-Lena left in June", ["Anna-Lena", "June"]),  # names that begin sentences are missed
        ("COPD, treated by Dr. Smith and J. Doe with 2.5mg", ["COPD", "Smith", "Doe", "2.5mg"]),
        ("I saw: Nothing new. A cat\nBut MRN-12345, a.b@c.org!", ["MRN-12345", "a.b@c.org"]),
        ("no finding", []),
        ("", []),
    ],
)
def test_what_is_guessed_to_be_a_keyword(text, words) -> None:
    assert [text[start:end] for start, end in likely_keywords(text)] == words


def test_both_metrics_by_hand() -> None:
    mask = np.array([[True, True, True], [True, True, False], [True, False, False]])
    p = np.array([[0.5, 0.25, 0.125], [0.5, 1.0, 1.0], [1.0, 1.0, 1.0]])
    right = np.array([[True, False, True], [False, True, False], [True, False, False]])
    signals = TokenSignals(mask, np.where(mask, -np.log(p), 0), np.zeros((3, 3)), np.zeros((3, 3)), right)
    keywords = np.array([[False, True, True], [True, False, False], [False, False, False]])
    accuracy, confidence = keyword_accuracy(signals, keywords), keyword_confidence(signals, keywords)
    assert accuracy.values == pytest.approx([0.5, 0.0, np.nan], nan_ok=True)
    assert confidence.values == pytest.approx([0.1875, 0.5, np.nan], nan_ok=True)
    for metric in (accuracy, confidence):
        assert metric.direction == "remembers_above" and "our definition" in metric.definition
        assert metric.counts == {"n_keyword_tokens": 3}
        assert metric.figure(np.arange(3), np.random.default_rng(0)).counts["n_without_value"] == 1
    for wrong in (keywords[:, :2], ~mask):
        with pytest.raises(AuditError, match="keyword_accuracy"):
            keyword_accuracy(signals, wrong)


def test_masks_stand_in_the_columns_of_the_scores() -> None:
    modality = DialogueModality(letters(), format="{prompt}:")
    values = [
        {"prompt": "where", "answer": "in Elmira, 4, or", "keywords": ["Elmira"]},
        {"prompt": "a", "answer": "b 1"},
        "x Elmira 7",
    ]
    records = [Record(f"s{n}", f"s{n}", f"p{n}", "", {"t": value}, None, "test") for n, value in enumerate(values)]
    dataset = RecordDataset(records, name="k", levels=("sample",), modality_kinds={"t": "dialogue"})
    size = letters().size
    model = build_causal_lm(
        {"config": {"model_type": "gpt2", "vocab_size": size, "n_positions": 32, "n_embd": 8, "n_layer": 1,
                    "n_head": 1, "bos_token_id": 0, "eos_token_id": 0}}, 0,
    ).eval()  # fmt: skip
    signals = token_signals(
        model, CausalLMTask("t"), Loader(dataset, {"t": modality}).batches(range(3), 2), torch.device("cpu")
    )
    mask = keyword_mask(modality, values)
    assert mask.shape == signals.mask.shape and not (mask & ~signals.mask).any()
    # By hand, from the model's own law after "where:in" of the tokens of " Elmira".
    ids = modality.prepare(values[0]).ids
    with torch.inference_mode():
        log_p = model(ids[None], torch.ones_like(ids)[None]).logits[0].log_softmax(-1)
    begin = ids.tolist().index(letters().backend.token_to_id("ĠE"))
    n_tokens = len(letters().encode(" Elmira", special=False)[0])
    by_hand = [log_p[t - 1, ids[t]].exp().item() for t in range(begin, begin + n_tokens)]
    assert n_tokens == 4
    assert keyword_confidence(signals, mask).values[0] == pytest.approx(np.mean(by_hand), rel=1e-5)
