"""The benchmark of methods on a made-up table: it resumes, tunes without the test split, and its page is arithmetic."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forgetmi.inputs import TabularInput
from forgetmi.methods import METHODS, build_method
from forgetmi.records import Record, RecordDataset
from forgetmi.training.options import FitOptions

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--datasets", "made_up", "--seeds", "0", "1", "--retrains", "3", "--sizes", "0.25", "--workers", "1"]
METHODS_RUN = ["fine_tune", "ssd", "unsir"]


def made_up(sizes, scratch, data) -> RecordDataset:
    draw = np.random.default_rng(0)
    records = []
    for n, split in enumerate(np.repeat(["train", "validation", "test"], sizes)):
        label = n % 2
        row = {name: float(value) for name, value in zip("abcdef", draw.normal(0.4 * label, 1.0, 6), strict=True)}
        records.append(Record(f"s{n:03d}", f"s{n:03d}", f"p{n:03d}", "", {"row": row}, label, str(split)))
    return RecordDataset(
        records,
        name="made_up",
        levels=("patient", "sample"),
        classes=("no", "yes"),
        modality_kinds={"row": "tabular"},
        notes=["made up"],
    )


@pytest.fixture(scope="module")
def bench():
    """The script as a module, its helpers importable, and a made-up data set among the others."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("methods_script", FOLDER / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from methods_bench import setups, sources

    def nowhere(sizes, scratch, data):
        raise sources.NotHereError("the files of nowhere are not here")

    tiny = setups.Setup(
        name="made_up",
        title="Made up",
        how="it is made up",
        load=made_up,
        sizes=(48, 24, 24),
        inputs={"row": TabularInput()},
        encoders={"row": {"name": "mlp", "widths": [16], "dropout": 0.0}},
        recipe=FitOptions(epochs=12, batch_size=16, lr=1e-2, weight_decay=0.0),
        model={"fusion": {"name": "gate"}, "dim": 8},
    )
    absent = replace(tiny, name="nowhere", title="Nowhere", how="`get nowhere`", load=nowhere)
    setups.SETUPS |= {"made_up": tiny, "nowhere": absent}
    yield module
    for name in ("made_up", "nowhere"):
        del setups.SETUPS[name]
    sys.path[:] = [path for path in sys.path if path != str(FOLDER)]


@pytest.fixture(scope="module")
def run(bench, tmp_path_factory):
    """A finished run: its folder and its results."""
    folder = tmp_path_factory.mktemp("bench")
    assert bench.main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    return [*TINY, "--methods", *METHODS_RUN, "--work", str(folder / "work"), "--out", str(folder / "out"), *more]


def results(folder: Path) -> tuple[dict, str]:
    out = folder / "out"
    return json.loads((out / "methods.json").read_text()), (out / "methods.md").read_text()


def cell(gap=0.1, *, destroyed=False, findings=(), share=0.5, **more):
    figures = {
        f"{part}_{name}": {"value": 0.5, "low": 0.4, "high": 0.6, "reason": None, "n": 10}
        for part in ("forget", "retain", "test")
        for name in ("accuracy", "auc", "macro_f1", "cross_entropy")
    }
    figures["mia_auc"] = {"value": 0.6, "low": 0.5, "high": 0.7, "reason": None, "n": 10}
    figures["mia_tpr_at_1_fpr"] = {"value": None, "low": None, "high": None, "reason": "10 are too few", "n": 10}
    parts = {"forget_accuracy": gap, "retain_accuracy": -gap, "test_accuracy": 0.0, "mia_auc": 2 * gap}
    return {
        "status": "done",
        "figures": figures,
        "gap": {**parts, "mean": gap},
        "tow": 0.9,
        "tow_mia": 0.8,
        "verdict": "fail" if findings else "pass",
        "informative": True,
        "findings": list(findings),
        "destroyed": destroyed,
        "seconds": 2.0,
        "cpu_seconds": 10.0 * share,
        "peak_mb": 100.0,
        "retraining": {"seconds": 4.0, "cpu_seconds": 10.0},
        **more,
    }


def document(rows, datasets=("made_up",)):
    about = {"status": "measured", "records": {"train": 1}, "notes": []}
    asked = {"methods": ["a"], "seeds": [0, 1], "sizes": [0.1], "retrains": 2}
    machine = {"name": "here", "device": "cpu", "python": "3", "torch": "2", "note": ""}
    return {
        "command": "c", "machine": machine, "asked": asked, "datasets": dict.fromkeys(datasets, about), "rows": rows,
        "tuned": {},
    }  # fmt: skip


def row(name, *cells, dataset="made_up"):
    from methods_bench.table import summary

    return {**summary(name, cells, 2), "dataset": dataset, "share": 0.1}


def test_a_run_measures_every_method_and_says_who_refused(run):
    found, page = results(run)
    rows = {r["method"]: r for r in found["rows"]}
    assert set(rows) == {"original", "retrained", *METHODS_RUN}
    assert rows["fine_tune"]["done"] == rows["ssd"]["done"] == rows["original"]["done"] == 2
    assert rows["retrained"]["done"] == 6  # three models held out, two seeds
    assert rows["unsir"]["refused"].startswith("unsir forgets whole classes") and "gap" not in rows["unsir"]
    assert f"refused: {rows['unsir']['refused']}" in page
    figures = rows["fine_tune"]["cells"][0]["figures"]
    value, low, high = figures["test_accuracy"]
    assert low <= value <= high
    assert figures["mia_tpr_at_1_fpr"][0] is None and "not measurable" in page  # 24 others: no 1 % to be seen
    assert rows["fine_tune"]["cells"][0]["cpu_seconds"] > 0 and rows["fine_tune"]["time_share"]["mean"] > 0
    assert (run / "out" / "methods-0.25.png").stat().st_size > 1000
    assert str(run) not in json.dumps(found) + page


def test_all_methods_have_the_same_budget_and_the_choice_is_recorded(run):
    tuned = results(run)[0]["tuned"]["made_up"]["0.25"]
    for name in ("fine_tune", "ssd"):
        criteria = [item["criterion"] for item in tuned[name]["tried"]]
        assert len(criteria) == 4
        assert tuned[name]["options"] == tuned[name]["tried"][int(np.argmin(criteria))]["options"]
    cells = [json.loads(p.read_text()) for p in sorted((run / "work").rglob("seed-*/fine_tune.json"))]
    assert [c["options"] for c in cells] == [tuned["fine_tune"]["options"]] * 2


def test_what_is_done_is_kept_and_what_is_missing_is_made_again_alike(bench, run, monkeypatch):
    from methods_bench.models import Request

    before = {p: p.read_bytes() for p in (run / "work").rglob("*.json")}
    calls = []
    real = {name: getattr(Request, name) for name in ("train_original", "retrain", "unlearn")}
    for name, function in real.items():
        monkeypatch.setattr(Request, name, lambda *a, name=name, f=function, **k: (calls.append(name), f(*a, **k))[1])
    assert bench.main(command(run)) == 0
    assert not calls
    assert {p: p.read_bytes() for p in (run / "work").rglob("*.json")} == before
    lost = next(iter((run / "work").rglob("seed-1/ssd.json")))
    lost.write_text("{ half a file")
    assert bench.main(command(run)) == 0
    assert calls == ["unlearn"]
    old, new = json.loads(before[lost]), json.loads(lost.read_text())
    assert old["figures"] == new["figures"] and old["gap"] == new["gap"] and old["fingerprint"] == new["fingerprint"]


def test_a_method_with_a_bug_costs_the_others_nothing_and_ends_in_an_error(bench, run, tmp_path, monkeypatch, capsys):
    from methods_bench.models import Request

    shutil.copytree(run / "work", tmp_path / "work")
    for path in (tmp_path / "work").rglob("seed-1/*.json"):
        if path.stem in METHODS_RUN:
            path.unlink()
    real = Request.unlearn

    def breaks(self, original, method, *given, **more):
        if method == "fine_tune":
            raise ZeroDivisionError
        return real(self, original, method, *given, **more)

    monkeypatch.setattr(Request, "unlearn", breaks)
    assert bench.main(command(tmp_path)) == 1
    assert "broke: fine_tune on made_up, seed 1" in capsys.readouterr().err
    rows = {r["method"]: r for r in results(tmp_path)[0]["rows"]}
    assert (rows["fine_tune"]["done"], rows["ssd"]["done"]) == (1, 2)


def test_cells_of_other_retrained_models_are_not_mixed_in(bench, run, tmp_path):
    """With a fourth retrained model the older gaps are of another question."""
    from methods_bench.table import collect
    from methods_bench.work import Plan

    plan = Plan(run / "work", None, "cpu", ("fine_tune",), (0, 1), (0.25,), 3)
    own = plan.folder("made_up", 0.25) / "seed-0"
    group = (own / "group.json").read_text()
    try:
        (own / "group.json").write_text(json.dumps({"fingerprint": "another"}))
        rows = {r["method"]: r for r in collect(plan, ["made_up"])["rows"]}
        assert rows["fine_tune"]["done"] == 1
    finally:
        (own / "group.json").write_text(group)


def test_tuning_never_sees_a_test_record_nor_a_retrained_model(bench, tmp_path, monkeypatch):
    from methods_bench import tuning
    from methods_bench.models import Request
    from methods_bench.setups import SETUPS, Workplace

    place = Workplace(SETUPS["made_up"], tmp_path, None)
    request = Request(place, 0.25, 0, "cpu")
    original, _ = request.train_original()
    seen: set[int] = set()
    for name in ("batch", "noisy_batch", "labels"):
        real = getattr(place.loader, name)
        monkeypatch.setattr(
            place.loader, name, lambda indices, *a, real=real, **k: (seen.update(indices), real(indices, *a, **k))[1]
        )
    monkeypatch.setattr(Request, "retrain", lambda *a: pytest.fail("a retrained model was made"))
    for method in ("fine_tune", "neg_grad_plus", "ssd"):
        assert tuning.tune(request, original, method)["options"] is not None
    assert request.partition.test and not seen & set(request.partition.test)
    assert set(request.partition.validation) <= seen and set(request.partition.forget) <= seen


def test_the_criterion_prefers_a_useful_model_to_a_destroyed_one(bench, tmp_path):
    from methods_bench.models import Request
    from methods_bench.setups import SETUPS, Workplace
    from methods_bench.tuning import criterion

    request = Request(Workplace(SETUPS["made_up"], tmp_path, None), 0.25, 0, "cpu")
    original, _ = request.train_original()
    measure = criterion(request.job(original, request.without_test(), 0))
    noise = torch.Generator().manual_seed(0)
    destroyed = request.job(original, request.without_test(), 0).copy_of_original()
    with torch.no_grad():
        for parameter in destroyed.parameters():
            parameter.add_(5.0 * torch.randn(parameter.shape, generator=noise))
    assert measure(destroyed) > measure(original) + 0.1


def test_a_model_that_says_one_thing_to_all_is_destroyed(bench, tmp_path):
    from methods_bench.figures import compare, measured_model
    from methods_bench.models import Request, as_scores
    from methods_bench.setups import SETUPS, Workplace

    request = Request(Workplace(SETUPS["made_up"], tmp_path, None), 0.25, 0, "cpu")
    parts = request.parts()

    def model(strength, seed):
        """Logits that favour the label so strongly; 0 is a constant."""
        draw = np.random.default_rng(seed)
        scores = {}
        for part, info in parts.items():
            sign = np.where(info.labels == 1, 1.0, -1.0)
            noise = draw.normal(0.0, 1.0 if strength else 0.0, len(sign))
            logits = np.stack([np.zeros_like(sign), strength * sign + noise + 0.1], axis=1)
            losses = np.logaddexp(logits[:, 0], logits[:, 1]) - logits[np.arange(len(sign)), info.labels]
            scores[part] = {"nll": losses, "logits": logits}
        return measured_model(as_scores("unlearned", scores), parts, 2)

    retrained = [model(2.0, seed) for seed in (1, 2)]
    assert not compare(model(2.5, 0), model(2.0, 3), retrained, parts)["destroyed"]
    constant = compare(model(2.5, 0), model(0.0, 3), retrained, parts)
    assert constant["destroyed"] and constant["gap"]["test_accuracy"] < -0.3


def test_the_gap_by_hand(bench):
    from methods_bench.figures import mean_gap

    own = {"forget_accuracy": 0.9, "retain_accuracy": 1.0, "test_accuracy": 0.7, "mia_auc": 0.45}
    others = [
        {"forget_accuracy": 0.7, "retain_accuracy": 1.0, "test_accuracy": 0.8, "mia_auc": 0.5},
        {"forget_accuracy": 0.9, "retain_accuracy": 1.0, "test_accuracy": 0.8, "mia_auc": 0.6},
    ]
    found = mean_gap(own, others)
    expected = {"forget_accuracy": 0.1, "retain_accuracy": 0.0, "test_accuracy": -0.1, "mia_auc": -0.1, "mean": 0.075}
    assert found == pytest.approx(expected)


def test_a_row_by_hand_and_who_is_ranked(bench):
    from methods_bench.table import ranking

    good = row("fine_tune", cell(0.1, share=0.2), cell(0.3, share=0.4, findings=["remembered"]))
    assert good["gap"] == pytest.approx({"mean": 0.2, "low": 0.1, "high": 0.3})
    assert good["gap_parts"]["mia_auc"] == pytest.approx(0.4) and good["gap_parts"]["retain_accuracy"] == -0.2
    assert good["time_share"]["mean"] == pytest.approx(0.3) and good["peak_mb"] == 100.0
    assert good["flags"] == {"over_forgotten": 0, "remembered": 1, "utility_lost": 0, "destroyed": 0}
    assert good["figures"]["mia_tpr_at_1_fpr"]["value"] is None
    assert good["verdicts"] == {"pass": 1, "fail": 1, "inconclusive": 0}
    better = row("forget_mi", cell(0.05), cell(0.05))
    destroyed = row("ssd", cell(0.01), cell(0.01, destroyed=True))
    broken = row("npo", cell(0.01), {"status": "diverged", "reason": "nan"})
    control = row("original", cell(0.0), cell(0.0))
    assert [r["method"] for r in ranking([good, better, destroyed, broken, control])] == ["forget_mi", "fine_tune"]
    from methods_bench.page import page

    text = page(document([good, better, destroyed, broken, control]))
    assert "Not ranked (destroyed or diverged in a seed at least): npo, ssd." in text
    assert "| – | ssd |" in text and "destroyed 1/2" in text and "diverged in 1" in text
    assert "| 1 | **forget_mi** | 0.050 (0.050–0.050) |" in text


@pytest.mark.parametrize(("ours", "share", "met"), [(0.1, 0.05, True), (0.1, 0.5, False), (0.4, 0.05, False)])
def test_the_closing_says_what_the_numbers_say(bench, ours, share, met):
    from methods_bench.page import closing

    datasets = ["one", "two", "three", "four"]
    rows = [
        row(name, cell(gap, share=share), cell(gap, share=share), dataset=dataset)
        for dataset in datasets
        for name, gap in (("forget_mi", ours), ("fine_tune", 0.2))
    ]
    text = " ".join(closing(document(rows, datasets)))
    alone = {**row("forget_mi", cell(0.1)), "share": 0.03}, {**row("fine_tune", cell(0.2)), "share": 0.03}
    at_three = " ".join(closing(document([*rows, *alone], datasets))).split("### 3% forgotten")
    assert at_three[0].strip() == text.strip()
    assert "nearer on 1 of 1 data sets" in at_three[1] and "It rests on one seed." in at_three[1]
    assert "too few data sets to judge" in at_three[1] and "goal is" not in at_three[1]
    assert ("The goal is met." in text) == met
    assert ("The goal is not met." in text) != met
    assert f"nearer on {4 if ours < 0.2 else 0} of 4 data sets, and on {4 if met else 0} of them" in text
    assert "one seed" not in text
    assert f"is {'nearer' if ours < 0.2 else 'not nearer'} than the best baseline" in text
    assert f"one of ours is nearest on {4 if met else 0}." in text


def test_the_page_says_who_is_no_nearer_than_the_original_and_whether_the_criterion_points_to_retrained(bench):
    from methods_bench.page import page

    names = ["forget_mi", *(f"method_{n}" for n in range(1, 6))]
    rows = [row("original", cell(0.35))] + [row(name, cell(0.1 * (n + 1))) for n, name in enumerate(names)]
    found = document(rows)
    for turned, rho in ((1, "1.00"), (-1, "-1.00")):
        found["tuned"] = {
            "made_up": {
                "0.1": {
                    name: {"options": {"a": n}, "tried": [{"options": {"a": n}, "criterion": turned * float(n)}]}
                    for n, name in enumerate(names)
                }
            }
        }
        text = page(found)
        assert f"rank correlation of {rho}" in text
    assert text.count("no nearer than the original") == 3  # .4, .5, .6
    assert "elsewhere: method_3, method_4, method_5." in text


def test_a_data_set_that_is_not_here_is_left_out_and_the_page_says_how_to_get_it(bench, tmp_path):
    given = command(tmp_path)
    given[given.index("made_up")] = "nowhere"
    assert bench.main(given) == 0
    found, page = results(tmp_path)
    assert found["datasets"]["nowhere"]["status"] == "skipped" and not found["rows"]
    assert "**Not measured:** the files of nowhere are not here. To get it: `get nowhere`." in page
    assert "nothing is said" in page


def test_every_method_has_settings_that_can_be_built_and_no_more_than_the_others(bench):
    from methods_bench.grids import OURS, SETTINGS, candidates

    recipe = FitOptions(epochs=24, batch_size=64)
    assert set(OURS) <= set(METHODS)
    for name in METHODS:
        found = candidates(name, recipe)
        assert 1 <= len(found) <= SETTINGS
        assert len({repr(build_method(name, options)) for options in found}) == len(found)


def test_bad_arguments_are_refused(bench, capsys):
    for given, said in ((["--retrains", "1"], "two at least"), (["--sizes", "10"], "no share")):
        with pytest.raises(SystemExit):
            bench.main(given)
        assert said in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_command_runs_on_a_gpu(bench, tmp_path):
    assert bench.main(command(tmp_path, "--device", "cuda")) == 0
    found, page = results(tmp_path)
    assert {r["method"]: r["done"] for r in found["rows"]}["fine_tune"] == 2
    assert "wall time" in page and "--device cuda" in found["command"]
