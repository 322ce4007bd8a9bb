"""Keywords and synonyms: counted by hand, planted, or written to a file."""

from __future__ import annotations

import random

import pytest

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.vocabulary import extract_keywords, extract_synonyms, read_keywords, read_synonyms


def test_row_7b_keywords_are_counted_over_all_texts():
    """The published code counted the words of the last text chunk only; there, 'effusion' would be missing."""
    texts = ["Effusion, effusion and EFFUSION.", "effusion lung lung", "zebra zebra lung"]
    assert extract_keywords(texts, 3) == ("effusion", "lung", "zebra")
    assert extract_keywords(iter(reversed(texts)), 3) == ("effusion", "lung", "zebra")


def test_keywords_leave_out_stop_words_short_words_and_exclusions_and_break_ties_by_alphabet():
    texts = ["the the the of of no xxxx xxxx xxxx mass chest edema"]
    assert extract_keywords(texts, 10, exclude={"xxxx"}) == ("chest", "edema", "mass")
    assert extract_keywords(texts, 1) == ("xxxx",)
    with pytest.raises(ConfigError):
        extract_keywords(texts, 0)


def planted(swap="largish"):
    """'enlarged' and another word are used in the same places; everything else has places of its own."""
    draw = random.Random(0)
    frames = [("cardiac", "silhouette"), ("mediastinal", "contour"), ("heart", "shadow"), ("aortic", "knob")]
    others = ["fracture rib left", "effusion pleural small", "catheter tip projects", "bowel gas pattern"]
    texts = []
    for _ in range(200):
        before, after = draw.choice(frames)
        texts.append(f"{before} {draw.choice(['enlarged', swap])} {after}")
        texts.append(draw.choice(others))
    return texts


def test_synonyms_find_the_planted_pair_both_ways():
    synonyms = extract_synonyms(planted(), min_count=5, threshold=0.9)
    assert synonyms["enlarged"] == "largish" and synonyms["largish"] == "enlarged"
    assert all(word != other for word, other in synonyms.items())


def test_synonyms_are_the_same_each_time_and_respect_threshold_count_and_exclusion():
    texts = planted()
    assert extract_synonyms(texts) == extract_synonyms(list(texts))
    assert len(extract_synonyms(texts, threshold=0.95)) <= len(extract_synonyms(texts, threshold=0.2))
    assert "enlarged" not in extract_synonyms(texts, min_count=190)
    assert "largish" not in extract_synonyms(texts, exclude={"largish"}).values()
    assert extract_synonyms(["one two"]) == {} and extract_synonyms([]) == {}
    with pytest.raises(ConfigError):
        extract_synonyms(texts, window=0)


def test_windows_do_not_reach_from_one_text_into_the_next():
    """'alpha' only stands in texts of its own: it has no neighbours, hence no synonym."""
    texts = ["alpha", "beta gamma delta"] * 20 + ["beta gamma epsilon"] * 20
    assert "alpha" not in extract_synonyms(texts, threshold=0.01)


def test_keyword_file(tmp_path):
    path = tmp_path / "keywords.csv"
    path.write_text("word,count\nEdema,5\n\nlung,4\nedema,3\n", encoding="utf-8")
    assert read_keywords(path) == ("edema", "lung")
    path.write_text("word\n", encoding="utf-8")
    with pytest.raises(DataError, match="no keyword"):
        read_keywords(path)
    with pytest.raises(DataError, match="cannot read"):
        read_keywords(tmp_path / "none.txt")


HEADER = "first_word,second_word,similarity,frequency\n"


def test_synonym_file_keeps_the_most_similar_first_word(tmp_path):
    path = tmp_path / "Synonyms.csv"
    rows = ["big,Large,0.7,9", "Huge,large,0.9,1", "vast,large,0.9,2", "acute,sharp,0.5,1", "same,same,1.0,5"]
    path.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    assert read_synonyms(path) == {"large": "vast", "sharp": "acute"}


def test_synonym_file_errors_name_column_and_rows(tmp_path):
    path = tmp_path / "Synonyms.csv"
    path.write_text("first_word,second_word,similarity\na,b,0.1\n", encoding="utf-8")
    with pytest.raises(DataError, match="frequency"):
        read_synonyms(path)
    path.write_text(HEADER + "a,b,0.5,1\nc,d,high,1\n,e,0.5,1\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_synonyms(path)
    assert caught.value.where == "Synonyms.csv:3, Synonyms.csv:4" and caught.value.what.startswith("2 rows")
