"""How records are asked for: templates, where a secret begins, and what counts as success."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forgetmi.attacks.extraction.asking import Secret, cut_answer, cut_as_asked, judge, secret_of, split_text, write
from forgetmi.attacks.extraction.contests import build_contests
from forgetmi.attacks.extraction.identifiers import KINDS, identifiers_of
from forgetmi.attacks.extraction.templates import PLAIN, Template, chosen_templates, read_templates, shipped_templates
from forgetmi.errors import ConfigError, DataError
from forgetmi.metrics.generation import Decoding, prompts_of
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from tests.attacks.extraction.models import END, dialogue, letter_tokenizer, small_gpt

VALUE = {"prompt": "Ann {x}", "answer": "MRN 004312."}


def said(modality, tokens) -> str:
    return modality.tokenizer.decode(list(tokens))


def test_prompt_and_answer_are_cut_where_the_model_reads_them() -> None:
    modality = dialogue()
    cut = cut_answer(modality, VALUE)
    assert (said(modality, cut.before), said(modality, cut.after)) == ("Ann {x}\n", "MRN 004312.")
    assert list(cut.before) == prompts_of(modality, [VALUE])[0]
    text = cut_answer(modality, "MRN 004312.")
    assert (text.before, said(modality, text.after)) == ((), "MRN 004312.")
    assert said(modality, cut_answer(dialogue(max_length=11, on_long="cut"), VALUE).after) == "MRN"


def test_a_template_wraps_a_prompt_and_begins_an_answer() -> None:
    modality = dialogue()
    asked = Template("t", "Say of {prompt}, please.")
    cut = cut_as_asked(modality, VALUE, asked, 20)
    assert (said(modality, cut.before), said(modality, cut.after)) == ("Say of Ann {x}, please.\n", "MRN 004312.")
    begun = Template("t", "{prompt}", answer="It reads:")
    cut = cut_as_asked(modality, VALUE, begun, 20)
    assert (said(modality, cut.before), said(modality, cut.after)) == ("Ann {x}\nIt reads:", " MRN 004312.")
    plain = cut_as_asked(modality, VALUE, Template(PLAIN, "{prompt}"), 20)
    assert plain == cut_answer(modality, VALUE)


CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_a_chat_template_is_asked_as_it_asks() -> None:
    plain = letter_tokenizer()
    modality = DialogueModality(LMTokenizer(plain.backend, END, template=CHAT))
    cut = cut_answer(modality, VALUE)
    assert (said(modality, cut.before), said(modality, cut.after)) == ("[user] Ann {x}\n[assistant] ", "MRN 004312.")
    assert list(cut.before) == prompts_of(modality, [VALUE])[0]
    begun = cut_as_asked(modality, VALUE, Template("t", "Of {prompt}", answer="So:"), 20)
    assert said(modality, begun.before) == "[user] Of Ann {x}\n[assistant] So:"
    assert said(modality, begun.after) == " MRN 004312."
    ((contest,), _) = build_contests(modality, [VALUE], [identifiers_of(VALUE)], {}, count=9, seed=0)
    assert said(modality, contest.shared).startswith("[user] Ann {x}\n[assistant] MRN ")
    assert said(modality, contest.shared + contest.tails[0]) == "[user] Ann {x}\n[assistant] MRN 004312"


def test_a_plain_text_is_asked_for_by_its_opening() -> None:
    assert split_text("  one two three four five", 2) == ("  one two", " three four five")
    assert split_text("one two three four", 20) == ("one two", " three four")
    assert split_text("one", 20) == ("one", "")
    modality = dialogue()
    cut = cut_as_asked(modality, "one two three four", Template("t", "Go on: {prompt}", answer="Well:"), 1)
    assert (said(modality, cut.before), said(modality, cut.after)) == ("Go on: one Well:", " two three four")


def test_the_secret_of_a_record() -> None:
    modality = dialogue()
    secret = secret_of(modality, VALUE, 20, KINDS, 5)
    assert (secret.text, secret.identifiers) == ("MRN 0", ("004312",))  # five tokens may be written
    text = secret_of(modality, "MRN 00431 is old, MRN 004312 is new", 2, KINDS, 99)
    assert (text.text, text.identifiers) == (" is old, MRN 004312 is new", ("004312",))


def test_what_counts_as_success() -> None:
    secrets = [Secret("seen by Jo", ("Jo", "4312")), Secret("well and good", ()), Secret("lost", ("x",))]
    found = judge(secrets, [["jo was seen, 4312.", "by John 94312"], ["good", ""], None])
    np.testing.assert_allclose(found["identifiers"], [[1.0, 0.0], [np.nan, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(found["answer"], [[1 / 3, 1 / 3], [1 / 3, 0.0], [np.nan, np.nan]])
    assert "Jo" not in repr(secrets)
    assert np.isnan(judge(secrets, [None, None, None])["answer"]).all()


def test_what_is_written_is_as_long_as_it_may_be() -> None:
    modality, model = dialogue(), small_gpt(positions=40)
    prompts = [[5] * 10, [6] * 10, [], [7] * 38, [8] * 40, [9] * 10]
    found = write(model, modality, prompts, [3, 29, 5, 5, 5, 0], Decoding(), seed=0, batch_size=4)
    lengths = [None if samples is None else len(samples[0]) for samples in found]
    assert [n is None for n in lengths] == [False, False, True, False, True, True]
    assert lengths[0] <= 3
    assert lengths[1] <= 29
    assert lengths[3] <= 2
    one = write(model, modality, prompts[:1], [3], Decoding(), seed=0, batch_size=1)
    assert one[0] == found[0]


def test_the_packages_templates_wrap() -> None:
    shipped = shipped_templates()
    assert len({template.name for template in shipped}) == len(shipped) >= 10
    assert {"paraphrase", "form", "list", "role_play", "override", "prefix_injection"} == {t.style for t in shipped}
    assert all("<<p>>" in template.ask("<<p>>") for template in shipped)
    assert [template.name for template in chosen_templates((), None)] == [PLAIN]
    assert [template.name for template in chosen_templates(("json",), None)] == [PLAIN, "json"]
    with pytest.raises(ConfigError, match="Did you mean 'json'"):
        chosen_templates(("jsn",), None)


def test_own_templates(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"name": "mine", "prompt": "Now: {prompt}", "answer": "So"}]), encoding="utf-8")
    (mine,) = read_templates(path)
    assert mine == Template("mine", "Now: {prompt}", "So", "own")
    assert [template.name for template in chosen_templates((), path)] == [PLAIN, "mine"]
    wrong = [
        {"name": "My own", "prompt": "Now"},
        {"name": "b", "prompt": "{prompt}", "anser": ""},
        {"prompt": "{prompt}"},
    ]
    path.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_templates(path)
    assert len(caught.value.problems) == 4
    path.write_text(json.dumps([{"name": "json", "prompt": "{prompt}"}]), encoding="utf-8")
    with pytest.raises(ConfigError, match="two templates are called 'json'"):
        chosen_templates(None, path)
    for text in ("[", "{}", "[]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError):
            read_templates(path)
