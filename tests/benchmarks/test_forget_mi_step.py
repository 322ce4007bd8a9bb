"""The Forget-MI step benchmark: both sides compute the same loss, and the script writes results that can be read."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 300,
}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def setting():
    from forget_mi.data import Setting

    return Setting(records=3, batch_size=2, threads=1, image_size=1537, network=TINY)


@pytest.fixture
def data(setting, monkeypatch):
    """Made-up texts: what the benchmark takes where the reports are not installed."""
    import forget_mi.data

    from forgetmi.errors import MissingDependencyError

    def missing(_):
        raise MissingDependencyError("torchxrayvision", "cxr")

    monkeypatch.setattr(forget_mi.data, "package_file", missing)
    made = forget_mi.data.make_data(setting)
    assert made.source == "made-up words" and len(made.dataset) == 6
    return made


def test_both_sides_compute_the_same_loss_on_the_same_batches(setting, data):
    """With every saving, without noise's own draw and with one gate, the published loss is ours; rate 0 keeps it so."""
    from forget_mi.published import Savings, Weights, published_loss
    from forget_mi.sides import Clock, make_job

    from forgetmi.methods.forget_mi import ForgetMI
    from forgetmi.parts.gate import AdaptationGate
    from forgetmi.parts.selection.paired import PairedPlan
    from forgetmi.training.options import FitOptions
    from forgetmi.training.seeds import derive_seed, torch_generator

    clock = Clock(torch.device("cpu"))
    job = make_job(setting, data, clock)
    options = FitOptions(epochs=3, batch_size=2, lr=0.0, weight_decay=0.0, mode="eval")
    method = ForgetMI(joint="gate", preset="multimodal", fit=options)
    method.unlearn(job)
    epochs = [e for e in clock.events if e["event"] == "epoch"]
    assert len(clock.marks) == 4, "the start and three epochs"

    network = job.model.network.eval()
    student = copy.deepcopy(network)
    gate = AdaptationGate({"image": 768, "text": 16}, generator=torch_generator(0, "forget_mi", "gate"))
    stream = derive_seed(0, "forget_mi")
    plan = PairedPlan(job.loader, range(3), range(3, 6), batch_size=2, seed=stream, noise={})
    weights = Weights(unimodal_forget=0.1, unimodal_retain=0.1, joint_forget=0.4, joint_retain=0.4)

    def inputs(batch, length):
        text = batch.inputs["text"]
        ids, mask = (torch.nn.functional.pad(text[k], (0, length)) for k in ("input_ids", "attention_mask"))
        return batch.inputs["image"], ids, mask

    savings = Savings(teacher_frozen=True, needed_passes=True)
    for network.text_model.packed, length in ((True, 0), (False, 30)):
        total = 0.0
        for step in plan.steps(0):
            batches = plan.load(step, 0)
            given = {
                "retain": inputs(batches["retain"], length),
                "noisy": inputs(batches["forget_noisy"], length),
                "forget": inputs(batches["forget"], length),
            }

            def new_gate(*_):
                return lambda image, text: gate({"image": image, "text": text})

            with torch.no_grad():
                loss = published_loss(student, network, given, savings, new_gate, weights)
                all_six = published_loss(student, network, given, Savings(), new_gate, weights)
            assert float(loss) == pytest.approx(float(all_six), rel=1e-6), "two of the six passes enter nothing"
            total += len(step["forget"]) * float(loss)
        assert epochs[0]["loss"] == pytest.approx(total / 3, rel=1e-4)
    assert epochs[0]["uu"] > 0.01, "the noise is seen"


def test_the_reference_is_emptied_after_the_first_epoch_and_filled_again(setting, data, monkeypatch):
    from forget_mi import sides

    passes = []
    monkeypatch.setattr(
        sides.Watched,
        "output",
        lambda self, batch: passes.append(len(batch)) or super(sides.Watched, self).output(batch),
    )
    sides.run_ours(setting, data)
    # To size the gate, once: 2. Then each epoch the noisy records, 3, and in the first two the 3 retain records.
    assert sum(passes) == 2 + 3 * 3 + 2 * 3


@pytest.mark.parametrize("packed", [False, True])
def test_each_side_pads_as_it_says(setting, data, packed):
    from forget_mi.data import MAX_TOKENS
    from forget_mi.published import PublishedData, Savings

    tokens = [data.text.prepare(record.value("text")).tolist() for record in data.dataset]
    held = PublishedData([record.value("image") for record in data.dataset], tokens, tokens)
    image, ids, mask = held.batch([0, 1], Savings(short_padding=packed))
    assert ids.shape[1] == (max(len(tokens[0]), len(tokens[1])) if packed else MAX_TOKENS)
    assert mask.sum(dim=1).tolist() == [len(tokens[0]), len(tokens[1])] and image.shape == (2, 1, 1537, 1537)
    noisy = held.batch([0], Savings(float_noise=packed), noisy=True)[0]
    assert noisy.min() >= 0 and noisy.max() <= 1 and (noisy - image[:1]).abs().mean() > 0.03


def test_a_quick_run_writes_results(tmp_path, capsys, monkeypatch):
    """In this process; the script itself gives each run a process of its own."""
    import forget_mi_step

    monkeypatch.setattr(sys, "path", list(sys.path))
    assert forget_mi_step.main(["--quick", "--threads", "1", "--out", str(tmp_path)], forget_mi_step.measure_here) == 0
    content = json.loads((tmp_path / "forget_mi_step.json").read_text())
    page = (tmp_path / "forget_mi_step.md").read_text()
    assert page.strip() in capsys.readouterr().out and "say nothing about the published network" in page
    for entry in content["summary"].values():
        if isinstance(entry, dict) and "records_per_second" in entry:
            assert entry["records_per_second"] > 0 and entry["peak_mib"] > 0
    assert set(content["summary"]) >= {"published", "ours, epoch", "memory_share", "target_met"}
    assert content["setting"]["records"] == 2 and str(Path.cwd()) not in json.dumps(content)


def test_ratios_are_taken_within_a_turn():
    """Load that doubles the time of a whole turn changes no ratio; the slower kind of epoch decides on the target."""
    import forget_mi_step

    def one(seconds, names, peak):
        figures = {"records_per_second": 6 / seconds, "seconds": seconds, "cpu_seconds": seconds}
        return {"epochs": dict.fromkeys(names, figures), "peak_mib": peak}

    results = {
        "published": [one(60, ["epoch"], 1000), one(120, ["epoch"], 1000), one(60, ["epoch"], 1000)],
        "ours": [one(10, ["epoch", "kept"], 400), one(20, ["epoch", "kept"], 400), one(15, ["epoch", "kept"], 600)],
    }
    results["ours"][0]["epochs"]["kept"] = one(6, ["kept"], 0)["epochs"]["kept"]
    summary = forget_mi_step.summarise(results)
    assert summary["ours, epoch"]["times_faster"] == 6 and summary["ours, epoch"]["times_faster_range"] == [4, 6]
    assert summary["ours, kept"]["times_faster_range"] == [4, 10]
    assert summary["memory_share"] == 0.4 and summary["target_met"] == {"speed": True, "memory": True}
    results["ours"][1] = one(30, ["epoch", "kept"], 700)
    summary = forget_mi_step.summarise(results)
    assert summary["ours, epoch"]["times_faster"] == 4 and summary["target_met"] == {"speed": False, "memory": False}


@pytest.mark.slow
def test_a_quick_run_as_a_command(tmp_path):
    import subprocess

    command = [sys.executable, str(FOLDER / "forget_mi_step.py"), "--quick", "--threads", "1", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "forget_mi_step.json").read_text())["peer"] is False
