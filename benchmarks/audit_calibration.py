"""How often the audit's verdict is right: false alarms on models that never saw the patients, power on untouched ones.

    python benchmarks/audit_calibration.py [--quick] [--audits N] [--results FOLDER]

Each audit is of networks that were really trained: a new made-up population of patients with several records each, an
original trained on everybody, retrained models trained without the forgotten patients, and candidates whose answer is
known. *Held-out retrained*: trained without the forgotten patients too; a `fail` is a false alarm. *Original*: given
out as unlearned; anything but a `fail` is a miss. *Half forgotten*: the mean of an original's and a retrained model's
logits. *Over-forgotten*: an original trained on with the forgotten records' loss going up.

Populations differ in how much the original remembers (epochs of training, label noise). How much that truly is, is
measured on models of the same recipe that no verdict looks at. Goals: at most 5 % false alarms; at least 95 % of
originals found where the true AUC of the headline attack is one that an audit of this size sees in 95 % of cases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from forgetmi.attacks.membership import signals
from forgetmi.audit import comparison
from forgetmi.audit.measurements import measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.audit.verdict import judge
from forgetmi.metrics.intervals import clopper_pearson, null_auc_sd

CLASSES, FEATURES, HIDDEN = 3, 20, 64
RETRAINED, HELD_OUT = 5, 3
GOALS = {"false_alarms": 0.05, "power": 0.95}
OPTIONS = AuditOptions(published_svc=False, n_bootstrap=500)
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Setting:
    """A kind of population.

    Attributes:
        name: for the table.
        patients: of forget, retain, validation and test.
        epochs: of training, full batches.
        flipped: share of labels drawn at random: what can only be known by heart.
    """

    name: str
    patients: tuple[int, int, int, int]
    epochs: int
    flipped: float


SETTINGS = (
    Setting("30 forgotten, hardly remembered", (30, 150, 60, 120), 40, 0.1),
    Setting("30 forgotten, remembered", (30, 150, 60, 120), 150, 0.2),
    Setting("30 forgotten, known by heart", (30, 150, 60, 120), 400, 0.3),
    Setting("60 forgotten, remembered", (60, 150, 60, 200), 150, 0.2),
)


class Population:
    """Patients with one to four records that resemble each other, labels partly drawn at random."""

    def __init__(self, setting: Setting, seed: int) -> None:
        rng = np.random.default_rng([seed, 11])
        weights = rng.normal(size=(FEATURES, CLASSES))
        self.parts, self.features = {}, {}
        first = 0
        for name, n in zip(("forget", "retain", "validation", "test"), setting.patients, strict=True):
            patients = np.repeat(np.arange(n), rng.integers(1, 5, n))
            own = rng.normal(size=(n, FEATURES))
            x = own[patients] + 0.7 * rng.normal(size=(len(patients), FEATURES))
            labels = (x @ weights + 2.0 * rng.normal(size=(len(patients), CLASSES))).argmax(axis=1)
            flipped = rng.random(len(patients)) < setting.flipped
            labels[flipped] = rng.integers(0, CLASSES, int(flipped.sum()))
            self.parts[name] = PartInfo(labels, first + patients)
            self.features[name] = torch.tensor(x, dtype=torch.float32)
            first += n

    def labels(self, part: str) -> Tensor:
        """Of a part's records [N]."""
        return torch.tensor(np.asarray(self.parts[part].labels).astype(np.int64))


def train(population: Population, with_forget: Sequence[bool], epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Networks of one hidden layer, all at once, each from weights of its own: [K, ...] weights and biases.

    ``with_forget``: which of them are trained on the forget set too.
    """
    k = len(with_forget)
    shapes = ((k, FEATURES, HIDDEN), (k, 1, HIDDEN), (k, HIDDEN, CLASSES), (k, 1, CLASSES))
    layers = [torch.randn(shape, generator=generator) * (shape[1] ** -0.5 if shape[1] > 1 else 0.0) for shape in shapes]
    layers = [layer.requires_grad_() for layer in layers]
    x = torch.cat([population.features["forget"], population.features["retain"]])
    y = torch.cat([population.labels("forget"), population.labels("retain")])
    weight = torch.ones(k, len(y))
    weight[[i for i, with_it in enumerate(with_forget) if not with_it], : len(population.labels("forget"))] = 0.0
    optimiser = torch.optim.Adam(layers, lr=0.01)
    for _ in range(epochs):
        loss = F.cross_entropy(outputs(layers, x).transpose(1, 2), y.expand(k, -1), reduction="none")
        optimiser.zero_grad()
        ((loss * weight).sum(dim=1) / weight.sum(dim=1)).sum().backward()
        optimiser.step()
    return [layer.detach() for layer in layers]


def outputs(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    """Logits [K, N, C]."""
    return torch.relu(x @ layers[0] + layers[1]) @ layers[2] + layers[3]


def over_forgotten(population: Population, layers: list[Tensor], model: int) -> list[Tensor]:
    """Model number ``model``, trained on with the forgotten records' loss going up and the others' held."""
    own = [layer[model : model + 1].clone().requires_grad_() for layer in layers]
    optimiser = torch.optim.Adam(own, lr=0.003)
    for _ in range(40):
        up, held = (
            F.cross_entropy(outputs(own, population.features[part])[0], population.labels(part))
            for part in ("forget", "retain")
        )
        optimiser.zero_grad()
        (held - 0.5 * up).backward()
        optimiser.step()
    return [layer.detach() for layer in own]


def scores(population: Population, logits: Mapping[str, Tensor], role: Any, index: int = 0) -> ModelScores:
    """What the audit takes, of one model."""
    parts = {}
    for name, values in logits.items():
        z = values.numpy().astype(np.float32)
        nll = signals.nll(z, population.parts[name].labels).astype(np.float32)
        parts[name] = {"nll": nll, "logits": z}
    digest = hashlib.sha256(parts["test"]["logits"].tobytes()).hexdigest()
    return ModelScores(role, parts, digest, index)


def one_audit(setting: Setting, seed: int) -> dict[str, Any]:
    """One population, its models, and the rule's answer on each candidate."""
    population = Population(setting, seed)
    generator = torch.Generator().manual_seed(seed)
    # two originals, and a retrained model more than the verdict uses: with them the true leakage is measured
    seen = [True, True] + [False] * (RETRAINED + HELD_OUT + 1)
    layers = train(population, seen, setting.epochs, generator)
    logits = {part: outputs(layers, x) for part, x in population.features.items()}

    def made(index: int, role: Any, number: int = 0) -> ModelScores:
        return scores(population, {part: z[index] for part, z in logits.items()}, role, number)

    original = made(0, "original")
    retrained = [made(2 + i, "retrained", i) for i in range(RETRAINED)]
    first = 2 + RETRAINED
    candidates = {f"held-out retrained {i}": made(first + i, "unlearned") for i in range(HELD_OUT)}
    half = {part: (z[0] + z[first]) / 2 for part, z in logits.items()}
    candidates["half forgotten"] = scores(population, half, "unlearned")
    over = over_forgotten(population, layers, 0)
    over_logits = {part: outputs(over, x)[0] for part, x in population.features.items()}
    candidates["over-forgotten"] = scores(population, over_logits, "unlearned")

    context = AuditContext("multiclass", CLASSES)
    source = SignalSource(population.parts, context, retrained)
    options = OPTIONS.with_attacks(source.n_references)

    def measured(model: ModelScores) -> Any:
        return measure_model(model, population.parts, context, options, seed, source)

    sizes = {f"n_{part}_patients": population.parts[part].n_patients for part in ("forget", "test")}
    before, group = measured(original), [measured(model) for model in retrained]
    found: dict[str, Any] = {"setting": setting.name, "seed": seed, "decisions": {}, "findings": {}}
    for name, candidate in {"original": original, **candidates}.items():
        criteria = comparison.criteria(before, before if name == "original" else measured(candidate), group, options)
        verdict = judge(criteria, **sizes, options=options)
        found["decisions"][name] = verdict.decision
        found["findings"][name] = [f.criterion for f in verdict.findings if f.meaning != "not_judged"]
    found["auc"] = _auc(population, logits, 0)
    found["true_auc"] = _auc(population, logits, 1)
    found["null_auc"] = _auc(population, logits, first + HELD_OUT)
    found["retrained_high"] = max(m.attacks[options.headline].figures["auc"].value for m in group)
    return found


def _auc(population: Population, logits: Mapping[str, Tensor], model: int) -> float:
    """AUC of the attack on the loss against one model."""
    from forgetmi.metrics.roc import auc

    loss = [signals.nll(logits[part][model].numpy(), population.parts[part].labels) for part in ("forget", "test")]
    return auc(-np.concatenate(loss), np.repeat([True, False], [len(part) for part in loss]))


def summary(setting: Setting, audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates over the audits of a setting, with exact intervals whose unit is the audit."""
    n = len(audits)
    held_out = [[a["decisions"][f"held-out retrained {i}"] for i in range(HELD_OUT)] for a in audits]
    forget, test = setting.patients[0], setting.patients[3]
    reach = float(stats.norm.ppf(0.5 + OPTIONS.level / 2) + stats.norm.ppf(GOALS["power"]))
    limit = float(np.mean([a["retrained_high"] for a in audits])) + reach * null_auc_sd(forget, test)
    true_auc = float(np.mean([a["true_auc"] for a in audits]))
    originals = [a["decisions"]["original"] for a in audits]
    found = originals.count("fail")
    interval = clopper_pearson(found, n)
    return {
        "setting": setting.name,
        "audits": n,
        "true_auc": true_auc,
        "null_auc": float(np.mean([a["null_auc"] for a in audits])),
        "seen_in_95_of_100_from": limit,
        "detectable": true_auc >= limit,
        "false_alarm_share": float(np.mean([d == "fail" for group in held_out for d in group])),
        "false_alarms": sum(d == "fail" for group in held_out for d in group),
        "held_out": n * HELD_OUT,
        "false_alarm_criteria": Counter(
            c for a in audits for i in range(HELD_OUT) for c in a["findings"][f"held-out retrained {i}"]
        ),
        "held_out_decisions": Counter(d for group in held_out for d in group),
        "original": Counter(originals),
        "power": found / n,
        "power_low": interval.low,
        "power_high": interval.high,
        "half forgotten": Counter(a["decisions"]["half forgotten"] for a in audits),
        "over-forgotten": Counter(a["decisions"]["over-forgotten"] for a in audits),
    }


def judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The goals over all settings."""
    alarms, held_out = sum(row["false_alarms"] for row in rows), sum(row["held_out"] for row in rows)
    seen = [row for row in rows if row["detectable"]]
    found, n = sum(row["original"]["fail"] for row in seen), sum(row["audits"] for row in seen)
    return {
        "false_alarm_share": alarms / held_out,
        "false_alarms": alarms,
        "held_out": held_out,
        "false_alarms_reached": alarms / held_out <= GOALS["false_alarms"],
        "power": found / n if n else None,
        "found": found,
        "detectable_audits": n,
        "power_reached": None if not n else found / n >= GOALS["power"],
    }


def page(document: Mapping[str, Any]) -> str:
    """The results as Markdown."""

    def share(counter: Mapping[str, int]) -> str:
        total = sum(counter.values())
        return ", ".join(
            f"{name} {100 * counter.get(name, 0) / total:.0f} %" for name in ("fail", "inconclusive", "pass")
        )

    overall = document["overall"]
    lines = [
        "# How often the verdict is right",
        "",
        f"`python benchmarks/audit_calibration.py{' --quick' * document['quick']}`: {document['audits']} audits a "
        f"setting, {RETRAINED} retrained models each, {HELD_OUT} more of them held out; the standard attacks, 500 "
        f"resamples of patients. {document['minutes']:.0f} minutes on {document['machine']['cores']} cores, beside "
        "other work.",
        "",
        "| | share | of | goal | reached |",
        "| --- | --- | --- | --- | --- |",
        f"| false alarms: held-out retrained models that fail | {100 * overall['false_alarm_share']:.1f} % | "
        f"{overall['false_alarms']} of {overall['held_out']} | at most 5 % | "
        f"{'yes' if overall['false_alarms_reached'] else 'NO'} |",
    ]
    if overall["power"] is not None:
        lines.append(
            "| power: untouched originals that fail, where the leakage is detectable | "
            f"{100 * overall['power']:.1f} % | {overall['found']} of {overall['detectable_audits']} | at least 95 % | "
            f"{'yes' if overall['power_reached'] else 'NO'} |"
        )
    lines += [
        "",
        "| setting | true AUC | retrained AUC | seen in 95 of 100 from | held-out retrained | original | "
        "half forgotten | over-forgotten |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["settings"]:
        mark = "" if row["detectable"] else " (below)"
        lines.append(
            f"| {row['setting']} | {row['true_auc']:.3f}{mark} | {row['null_auc']:.3f} | "
            f"{row['seen_in_95_of_100_from']:.3f} | {share(row['held_out_decisions'])} | {share(row['original'])} | "
            f"{share(row['half forgotten'])} | {share(row['over-forgotten'])} |"
        )
    alarms: Counter[str] = Counter()
    for row in document["settings"]:
        alarms.update(row["false_alarm_criteria"])
    named = ", ".join(f"{name} {count}" for name, count in alarms.most_common()) or "none"
    lines += [
        "",
        f"Figures behind the false alarms: {named}.",
        "",
        "True AUC: of the attack on the loss against originals of the same recipe that no verdict looked at, mean over "
        "the audits; retrained AUC: the same of models that never saw the patients. The limit is the mean of the "
        "highest retrained AUC plus (z(.975) + z(.95)) standard deviations of the AUC when nothing leaks, at this "
        "number of patients. Where the true AUC is below it, the goal for power does not apply.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all settings and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=100, help="audits a setting (100)")
    parser.add_argument("--quick", action="store_true", help="3 audits a setting: does it run?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder for the results"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    n, began, rows = 3 if given.quick else given.audits, time.perf_counter(), []
    for number, setting in enumerate(SETTINGS):
        audits = []
        for i in range(n):
            audits.append(one_audit(setting, given.seed + 10_000 * number + i))
            if (i + 1) % 10 == 0:
                print(f"{setting.name}: {i + 1} of {n} audits, {time.perf_counter() - began:.0f} s", flush=True)
        rows.append(summary(setting, audits))
    document = {
        "quick": given.quick,
        "audits": n,
        "overall": judged(rows),
        "settings": rows,
        "options": {"attacks": list(OPTIONS.with_attacks({"retrained"}).attacks), "headline": OPTIONS.headline},
        "minutes": (time.perf_counter() - began) / 60,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
    }
    text = page(document)
    print(text)
    if not given.quick:
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / "audit_calibration.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (given.results / "audit_calibration.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
