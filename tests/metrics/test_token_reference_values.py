"""Metrics of the true tokens against values that other people's code computed; where it differs, the reason and the
value by hand.

Known differences: the peer leaves out each answer's last token in everything but the probability; its membership scores
are higher for *non*-members; its extraction strength is 1/len where no token at the end is right; it scores an answer
without tokens as 0; and it keeps likelihoods in single precision for min-k.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from forgetmi.batch import Batch, Loader
from forgetmi.metrics import token_signals as ts
from forgetmi.metrics.memorisation import exact_memorisation, extraction_strength
from forgetmi.metrics.token_signals import TokenSignals, token_signals
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.modalities.tokens import IGNORED, TokenModality
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.models.output import ModelOutput
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask

SHARED = Path(__file__).parents[3] / "shared" / "reference_values"
FOLDER = SHARED / "open_unlearning"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
CPU = torch.device("cpu")


class Says(nn.Module):
    """These logits, whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, attention_mask):
        return ModelOutput(self.logits)


@pytest.fixture(scope="module")
def fixed():
    """Signals of the fixed logits: the model's, its reference's, and those that hit labels at chosen places."""
    tensors = load_file(FOLDER / "inputs_fixed_logits.safetensors")
    hits = load_file(FOLDER / "inputs_fixed_logits_hits.safetensors")["forget.logits_hits"]
    tokens = {key: tensors[f"forget.{key}"] for key in ("input_ids", "attention_mask", "labels")}
    batch = Batch({"tokens": tokens}, {"tokens": torch.ones(4, dtype=torch.bool)}, None, torch.arange(4))
    logits = {"model": tensors["forget.logits"], "reference": tensors["forget.ref_logits"], "hits": hits}
    return {name: token_signals(Says(z), CausalLMTask(), [batch], CPU) for name, z in logits.items()}


@pytest.fixture(scope="module")
def functions():
    return json.loads((FOLDER / "metrics_functions.json").read_text())


def scores(published, key="score"):
    return [row[key] for row in published["value_by_index"].values()]


def test_likelihoods_of_fixed_logits(fixed, functions):
    published = functions["fixed_logits_forget"]
    model, cut = fixed["model"], fixed["model"].without_last()
    assert ts.probability(model).values == pytest.approx(
        [row["prob"] for row in published["evaluate_probability"]], rel=1e-10
    )
    assert ts.probability(model).values == pytest.approx(
        scores(functions["fixed_logits_probability"], "prob"), rel=1e-10
    )
    assert ts.mean_nll(model).values == pytest.approx(published["loss"], rel=1e-10)
    assert -ts.likelihood(model) == pytest.approx(published["loss"], rel=1e-10)
    for row, expected in enumerate(published["tokenwise_logprobs"]):
        assert -cut.nll[row, : len(expected)] == pytest.approx(expected, rel=1e-10)
        assert cut.n_tokens[row] == len(expected) == model.n_tokens[row] - 1
    found = ts.reference_difference(model, fixed["reference"])
    assert found == pytest.approx(-np.array(published["reference"]), rel=1e-10)


@pytest.mark.parametrize("k", [0.1, 0.2, 0.4, 1.0])
def test_min_k_of_fixed_logits(k, fixed, functions):
    published, cut = functions["fixed_logits_forget"], fixed["model"].without_last()
    for name, found in (("min_k", ts.min_k(cut, k)), ("min_k_plus_plus", ts.min_k_plus_plus(cut, k))):
        expected = published[f"{name}_{k}"]
        assert -found[:3] == pytest.approx(expected[:3], abs=2e-6)
        assert expected[3] == 0.0 and np.isnan(found[3])  # no token is left: that is no score of 0
    # By hand from their own token log-likelihoods, in double: row 1 has three, of which one is taken.
    lowest = sorted(published["tokenwise_logprobs"][0])[: max(1, int(k * 10))]
    assert ts.min_k(cut, k)[0] == pytest.approx(np.mean(lowest), rel=1e-12)


def test_memorisation_of_fixed_logits(fixed, functions):
    hits = fixed["hits"].without_last()
    expected = scores(functions["fixed_logits_hits_exact_memorization"])
    assert exact_memorisation(hits).values[:3] == pytest.approx(expected[:3], abs=1e-7)  # theirs is in single precision
    assert expected[3] is None and np.isnan(exact_memorisation(hits).values[3])
    strength = extraction_strength(hits).values
    published = scores(functions["fixed_logits_hits_extraction_strength"])
    assert strength[[0, 2]] == pytest.approx([published[0], published[2]], rel=1e-10)
    # Row 1: none of 3 tokens is right. No prefix but the whole extracts anything, so it is 0; theirs is 1/3.
    assert not hits.right[1].any() and hits.n_tokens[1] == 3
    assert strength[1] == 0 and published[1] == pytest.approx(1 / 3)
    # With its last token (which is right in rows 0, 2, 3 and wrong in row 1) an answer's figures are, counted by hand:
    assert fixed["hits"].right.sum(axis=1).tolist() == [7, 0, 6, 1]
    assert extraction_strength(fixed["hits"]).values == pytest.approx([7 / 11, 0, 3 / 11, 1])


def test_a_floor_that_they_report_themselves():
    found = json.loads((FOLDER / "findings.json").read_text())["extraction_strength_never_reaches_zero"]
    assert next(iter(found.values())) == pytest.approx(1 / 6)
    mask, zeros = np.ones((1, 6), dtype=bool), np.zeros((1, 6))
    assert extraction_strength(TokenSignals(mask, zeros, zeros, zeros, ~mask)).values.tolist() == [0.0]


# --- through real models ----------------------------------------------------------------------------------------------

SETS = ("forget10", "holdout10")
SIGNALS = {
    "mia_loss": lambda whole, cut, n_bytes, other: ts.likelihood(whole),
    "mia_zlib": lambda whole, cut, n_bytes, other: ts.zlib_ratio(whole, n_bytes),
    "mia_min_k_0.4": lambda whole, cut, n_bytes, other: ts.min_k(cut, 0.4),
    "mia_min_k_0.2": lambda whole, cut, n_bytes, other: ts.min_k(cut, 0.2),
    "mia_min_k_plus_plus_0.4": lambda whole, cut, n_bytes, other: ts.min_k_plus_plus(cut, 0.4),
    "mia_min_k_plus_plus_0.2": lambda whole, cut, n_bytes, other: ts.min_k_plus_plus(cut, 0.2),
    "mia_reference_vs_retain": lambda whole, cut, n_bytes, other: ts.reference_difference(whole, other),
}


@pytest.fixture(scope="module")
def models():
    return json.loads((FOLDER / "metrics_models.json").read_text())["gpt2"]


@pytest.fixture(scope="module")
def tokenized():
    """Of each set a loader, and the answers' texts."""
    rows = json.loads((FOLDER / "inputs" / "tokenized.json").read_text())
    tokenizer = read_lm_tokenizer(FOLDER / "inputs" / "tokenizer")
    made = {}
    for name in (*SETS, "retain90"):
        examples = rows[f"{name}|question|answer"]
        records = []
        for n, row in enumerate(examples):
            value = {"ids": row["input_ids"], "answer": [label != IGNORED for label in row["labels"]]}
            records.append(Record(f"s{n:02d}", f"s{n:02d}", f"p{n:02d}", "", {"tokens": value}, None, "train"))
        dataset = RecordDataset(records, name=name, levels=("sample",), modality_kinds={"tokens": "tokens"})
        texts = [tokenizer.decode([label for label in row["labels"] if label != IGNORED]) for row in examples]
        made[name] = (Loader(dataset, {"tokens": TokenModality(pad_id=0)}), texts)
    return made


@pytest.fixture(scope="module", params=["float64", "float32"])
def signals(request, tokenized):
    """By role and set."""
    found = {}
    for role in ("target", "current", "retain"):
        model = build_causal_lm({"path": FOLDER / "inputs" / f"gpt2_{role}", "dtype": request.param}, 0)
        for name, (loader, _) in tokenized.items():
            batches = loader.batches(range(len(loader.dataset)), 7)
            found[role, name] = token_signals(model, CausalLMTask(), batches, CPU)
    return found


@pytest.mark.parametrize("role", ["target", "current", "retain"])
def test_metrics_through_real_models(role, signals, models):
    for name in (*SETS, "retain90"):
        whole, cut = signals[role, name], signals[role, name].without_last()
        published = models[role][f"probability_{name}"]
        assert ts.probability(whole).values == pytest.approx(scores(published, "prob"), rel=1e-5, abs=1e-5)
        assert ts.mean_nll(whole).values == pytest.approx(scores(published, "avg_loss"), rel=1e-5, abs=1e-5)
        expected = scores(models[role][f"exact_memorization_{name}"])
        assert exact_memorisation(cut).values == pytest.approx(expected, abs=1e-7)
        # Theirs is never below 1/len: so ours, wherever a token at the end is right.
        floor = np.maximum(extraction_strength(cut).values, 1 / cut.n_tokens)
        assert floor == pytest.approx(scores(models[role][f"extraction_strength_{name}"]), abs=1e-9)


@pytest.mark.parametrize("name", SIGNALS)
def test_membership_signals_through_real_models(name, signals, models, tokenized):
    for role in ("target", "current", "retain"):
        for part in SETS:
            whole = signals[role, part]
            n_bytes = ts.zlib_lengths(tokenized[part][1])
            found = SIGNALS[name](whole, whole.without_last(), n_bytes, signals["retain", part])
            expected = scores(models[role][name][part.removesuffix("10")])
            assert -found == pytest.approx(expected, rel=2e-5, abs=2e-5)


# --- another source ---------------------------------------------------------------------------------------------------


def test_scores_of_another_source():
    """The other folder of values holds one text of 25 tokens, a vocabulary of 30."""
    published = json.loads((SHARED / "membership" / "other.json").read_text())["mimir"]
    with np.load(SHARED / "membership" / "inputs.npz") as arrays:
        laws, tokens = torch.from_numpy(arrays["text/all_logp"]), torch.from_numpy(arrays["text/tokens"])
        given = arrays["text/target_logp"]
    ids = torch.cat([torch.zeros(1, dtype=torch.long), tokens])[None]
    labels = ids.masked_fill(torch.arange(26) == 0, IGNORED)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    batch = Batch({"tokens": inputs}, {"tokens": torch.ones(1, dtype=torch.bool)}, None, torch.arange(1))
    found = token_signals(Says(torch.cat([laws, laws[-1:]])[None]), CausalLMTask(), [batch], CPU)
    assert -found.nll[0] == pytest.approx(given, rel=1e-9)
    for k in (0.1, 0.2, 0.5, 1.0):
        assert -ts.min_k(found, k)[0] == pytest.approx(published[f"min_k_{k}"], rel=1e-6)
    for k in (0.2, 0.5, 1.0):
        assert -ts.min_k_plus_plus(found, k)[0] == pytest.approx(published[f"min_k++_{k}"], rel=1e-6)
    # Of four tokens 20 % are none, and theirs is NaN; one is taken here.
    assert published["min_k_0.2_of_4_tokens (int(0.8)=0 tokens)"] == "nan"
    four = TokenSignals(*(values[:, :4] for values in vars(found).values()))
    assert ts.min_k(four, 0.2)[0] == given[:4].min()
    one = TokenSignals(*(np.ones((1, 1), dtype=kind) for kind in (bool, float, float, float, bool)))
    assert -ts.zlib_ratio(one, np.array([published["zlib_len"]]))[0] == published["zlib_loss1"]
