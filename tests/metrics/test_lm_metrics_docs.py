"""The example of docs/lm_metrics.md, run as it stands there on small folders."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from forgetmi.training.seeds import scoped_seed
from tests.data_adapters import text_sets
from tests.data_adapters.text_sets import write_lines
from tests.metrics.choice_files import WORDS, word_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "lm_metrics.md"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """What the example names: model, forget, retain, mia and mmlu, in the working directory."""
    monkeypatch.chdir(tmp_path)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=400, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
                        eos_token_id=2)  # fmt: skip
    with scoped_seed(0):
        GPT2LMHeadModel(config).save_pretrained("model")
    named = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=word_tokenizer().backend, **named).save_pretrained("model")
    for source in ("forget", "retain"):
        rows = [text_sets.lume_rows(f"{source}-{task}", task) for task in ("Task1", "Task2", "Task3")]
        write_lines(Path(source, f"{source}.jsonl"), itertools.chain(*rows))
    for kind in ("member", "nonmember"):
        write_lines(Path("mia", f"{kind}.jsonl"), [{"document": f"red town {kind} {word}"} for word in WORDS[4:]])
    for part, n in (("test", 4), ("dev", 5)):
        rows = [{**row, "subject": "virology"} for row in text_sets.wmdp_questions(n)]
        write_lines(Path("mmlu", f"{part}.jsonl"), rows)


def test_the_example_runs_as_it_is_written(folders, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(example, str(PAGE), "exec"), names)
    score = names["score"]
    assert score.final == pytest.approx((score.tasks.aggregate + score.mia.score + score.mmlu) / 3)
    assert score.destroyed is True and "destroyed" in capsys.readouterr().out
    assert names["mmlu"].definition.endswith("5 examples before it") and len(names["questions"]) == 4
