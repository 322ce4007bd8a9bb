"""Likelihoods and losses through real models against values computed by other people's code on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forgetmi.batch import Batch, Loader
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.modalities.lm_tokenizer import read_lm_tokenizer
from forgetmi.models.causal_lm import build_causal_lm
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.preference import dpo_loss, simnpo_loss
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.reference import Reference

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
WAYS = {"plain": {}, "chunks": {"max_logits": 640 * 9}, "packed": {"packing": True}, "checkpointed": {
    "gradient_checkpointing": True}}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    return json.loads((FOLDER / "losses_models.json").read_text())


@pytest.fixture(scope="module")
def batches():
    tensors = load_file(FOLDER / "inputs" / "batches.safetensors")

    def batch(name):
        tokens = {key: tensors[f"{name}.{key}"] for key in ("input_ids", "attention_mask", "labels")}
        n = len(tokens["labels"])
        return Batch({"tokens": tokens}, {"tokens": torch.ones(n, dtype=torch.bool)}, None, torch.arange(n))

    return {name: batch(name) for name in ("forget", "retain", "dpo_alternate", "dpo_original", "forget_leftpad")}


def model(role, dtype, **settings):
    return build_causal_lm({"path": FOLDER / "inputs" / f"gpt2_{role}", "dtype": dtype, **settings}, 0).eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", ["target", "current", "retain"])
def test_likelihoods_of_each_record_and_their_mean(role, way, published, batches):
    settings = dict(WAYS[way])
    task = CausalLMTask(**{"max_logits": settings.pop("max_logits")} if "max_logits" in settings else {})
    # Their single precision is off by 2e-5 itself, so ours is compared with their double.
    for dtype, relative, absolute in (("float64", 1e-9, 0), ("float32", 1e-5, 1e-5)):
        scored = model(role, dtype, **settings).train(way == "checkpointed")  # the dropout is 0
        expected = published["gpt2_fp64"]["batch_nll"][role]
        for name in ("forget", "retain", "dpo_alternate"):
            found = task.nll(scored, batches[name]).tolist()
            assert found == pytest.approx(expected[name], rel=relative, abs=absolute)
        mean = task.loss(scored, batches["forget"]).item()
        assert mean == pytest.approx(expected["hf_mean_forget"], rel=1e-9 if dtype == "float64" else 1e-5)


def test_batches_made_of_questions_and_answers_are_theirs(batches):
    order = json.loads((FOLDER / "inputs" / "batches.json").read_text())
    modality = DialogueModality(
        read_lm_tokenizer(FOLDER / "inputs" / "tokenizer"), format="Question: {prompt}\nAnswer:"
    )
    for name, source in (("forget", "forget10"), ("retain", "retain90")):
        lines = (FOLDER / "inputs/locuslab/TOFU" / source / "train.json").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        values = [{"qa": {"prompt": row["question"], "answer": row["answer"]}} for row in rows]
        records = [
            Record(f"{n:03d}", f"{n:03d}", f"{n:03d}", "h", value, None, "train") for n, value in enumerate(values)
        ]
        dataset = RecordDataset(records, name=source, levels=("patient",), modality_kinds={"qa": "dialogue"})
        batch = Loader(dataset, {"qa": modality}).batch(order[f"{name}_indices"])
        for key, tensor in batches[name].inputs["tokens"].items():
            assert torch.equal(batch.inputs["qa"][key], tensor), key


LOSSES = {
    "GradDiff_NLL": lambda f: -f.loss("forget") + f.loss("retain"),
    "NPO_default": lambda f: npo_loss(f.nll("forget"), f.kept("forget"), 0.1) + f.loss("retain"),
    "SimNPO_default": lambda f: 0.125 * simnpo_loss(f.mean("forget"), 4.5) + f.loss("retain"),
    "DPO_default": lambda f: dpo_loss(
        f.nll("dpo_alternate"), f.kept("dpo_alternate"), f.nll("dpo_original"), f.kept("dpo_original"), 0.1, "npo"
    ) + f.loss("retain"),
}  # fmt: skip


class Asked:
    """The task's answers for one model and its reference, as methods ask them."""

    def __init__(self, current, target, batches, max_logits):
        self.task, self.model, self.batches = CausalLMTask(max_logits=max_logits), current, batches
        self.references = {name: Reference(target, self.task, torch.device("cpu")) for name in batches}
        self.loss = lambda name: self.task.loss(self.model, batches[name])
        self.nll = lambda name: self.task.nll(self.model, batches[name])
        self.mean = lambda name: self.task.mean_nll(self.model, batches[name])

    def kept(self, name):
        values, _ = self.references[name].token_nll(self.batches[name])
        return values.sum(dim=1)


@pytest.mark.parametrize("max_logits", [2**25, 640 * 9])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_the_gradients_of_every_weight(name, max_logits, published, batches):
    """Values of losses that mean the same there; those with known faults are derived by hand with the methods."""
    current = model("current", "float64")
    asked = Asked(current, model("target", "float64"), batches, max_logits)
    expected = published["gpt2_fp64"][name]
    loss = LOSSES[name](asked)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    loss.backward()
    norms = {key.removeprefix("lm."): float(p.grad.norm()) for key, p in current.named_parameters()}
    wanted = expected["grad_norm_by_param"]
    assert set(wanted) == set(norms)
    assert norms == pytest.approx(wanted, rel=1e-7, abs=1e-12)
