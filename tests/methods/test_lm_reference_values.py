"""Methods through real (tiny) models, against values that other code computed; where that is wrong, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forgetmi.batch import Loader
from forgetmi.methods.base import UnlearningJob
from forgetmi.methods.pdu import PDU, Price
from forgetmi.modalities.tokens import TokenModality
from forgetmi.partition import Partition
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.reference import Reference
from tests.methods.lm import Answers, Captured, captured

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
PRECISION = {"gpt2_fp64": (torch.float64, 1e-9, 1e-7), "gpt2_fp32": (torch.float32, 1e-5, 1e-4)}


class Alternates(TokenModality):
    """Sequences as they stand in the batches; an answer is the number of an alternate one."""

    def __init__(self, alternates):
        super().__init__(pad_id=0)
        self.alternates = alternates

    def answered(self, value, answer):
        return self.prepare(self.alternates[int(answer)])


def sequences(batches, name):
    found = []
    for row, mask in enumerate(batches[f"{name}.attention_mask"].bool()):
        ids, labels = batches[f"{name}.input_ids"][row][mask], batches[f"{name}.labels"][row][mask]
        found.append({"ids": ids, "answer": labels != -100})
    return found


@pytest.fixture(scope="module")
def values():
    return json.loads((FOLDER / "losses_models.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=PRECISION)
def job(request):
    """Records 0 to 5 are to be forgotten; the model is another than the reference. And the precision's name."""
    from transformers import GPT2LMHeadModel

    batches = load_file(FOLDER / "inputs" / "batches.safetensors")
    tokens = [*sequences(batches, "forget"), *sequences(batches, "retain")]
    own = [{"alternate": str(n)} if n < 6 else {} for n in range(12)]
    records = [
        Record(f"s{n:02d}", f"s{n:02d}", f"p{n:02d}", "h", {"tokens": {**value, **own[n]}}, None, "train")
        for n, value in enumerate(tokens)
    ]
    dataset = RecordDataset(records, name="batches", levels=("patient",), modality_kinds={"tokens": "tokens"})
    models = [GPT2LMHeadModel.from_pretrained(FOLDER / "inputs" / f"gpt2_{role}") for role in ("current", "target")]
    current, target = (model.to(PRECISION[request.param][0]).eval() for model in models)
    task, trainer = CausalLMTask(), Captured(device="cpu", progress=False)
    return request.param, UnlearningJob(
        model=current,
        partition=Partition(dataset, tuple(range(6)), tuple(range(6, 12)), (), (), "patient"),
        task=task,
        loader=Loader(dataset, {"tokens": Alternates(sequences(batches, "dpo_alternate"))}),
        trainer=trainer,
        seed=0,
        reference=Reference(target, task, trainer.device),
    )


SAME = {
    "GradAscent": ("gradient_ascent", {}),
    "GradDiff_NLL": ("grad_diff", {}),
    "NPO_default": ("npo", {"beta": 0.1}),
    "NPO_forget_only": ("npo", {"beta": 0.1, "alpha": 0.0}),
    "DPO_default": ("dpo", {"beta": 0.1, "answers": "own"}),
    "SimNPO_default": ("simnpo", {"beta": 4.5}),
    "CEU_default": ("ce_u", {}),
    "WGA_default": ("wga", {"beta": 1.0}),
    "SatImp_default": ("satimp", {}),
}


@pytest.mark.parametrize("case", SAME)
def test_values_of_the_same_definition(case, job, values):
    precision, given = job
    _, value, norm = PRECISION[precision]
    name, options = SAME[case]
    found, expected = captured(name, given, **options), values[precision][case]
    assert found.loss.total.item() == pytest.approx(expected["loss"], rel=value)
    norms = {key: gradient.norm().item() for key, gradient in found.gradients.items()}
    assert norms == pytest.approx(expected["grad_norm_by_param"], rel=norm, abs=norm * expected["grad_norm_total"])


def by_hand(case, forget, retain):
    if case.endswith("KL"):  # published: the mean over prompt and padding too
        nll, reference = forget.sums(), forget.sums("log_q")
        ascent = -forget.token_mean() if case == "GradDiff_KL" else None
        npo = (-20 * torch.nn.functional.logsigmoid(0.1 * (nll - reference))).mean()
        return (npo if ascent is None else ascent) + retain.kl()
    if case == "UNDIAL_default":  # published: prompt and padding too, whose label -100 lowers token V - 100
        targets = [(z - 10 * hot).softmax(-1) for z, hot in zip(forget.z_0, forget.one_hot(), strict=True)]
        return forget.token_mean([-(q * p).sum(-1) for q, p in zip(targets, forget.log_p, strict=True)])
    flat = forget.token_mean([(z.amax(-1) - z.mean(-1)) ** 2 for z in forget.z])  # published: one place further
    return flat + 50 * (retain.token_mean() - 0.3)


DIFFERENT = {
    "GradDiff_KL": ("kl_min", {}),
    "NPO_KL": ("npo", {"retain": "kl"}),
    "UNDIAL_default": ("undial", {}),
    "PDU_step": ("pdu", {"price": 50.0, "every": "step", "warmup": 0}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_where_the_published_value_is_wrong_ours_is_that_of_the_equation(case, job, values):
    precision, given = job
    name, options = DIFFERENT[case]
    found = captured(name, given, **options)
    streams = [
        Answers(found.batches[stream], given.model, given.reference.model)
        for stream in ("forget", "retain")
        if stream in found.batches
    ]
    expected = by_hand(case, streams[0], streams[-1])
    assert found.loss.total.item() == pytest.approx(expected.item(), rel=PRECISION[precision][1])
    assert found.loss.total.item() != pytest.approx(values[precision][case]["loss"], rel=0.01)


def test_the_price_of_pdu(job, values):
    precision, given = job
    expected = values[precision]["PDU_step"]
    price = Price(PDU(price=50.0, every="step", warmup=0))
    price.begin(0)
    found = captured("pdu", given, price=50.0)
    price.see({"retain": found.loss.parts["retain"].item()})
    assert price.value == pytest.approx(expected["preferences_after"][-1], rel=PRECISION[precision][1])


def test_no_value_is_left_out(values):
    others = {"RMU_control_vec", "RMU_batch6", "RMU_row0", "RMU_row2", "batch_nll"}
    assert set(values["gpt2_fp64"]) - others == set(SAME) | set(DIFFERENT)
