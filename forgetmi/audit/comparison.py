"""The unlearned model and the original against the R retrained ones: gaps, likeness of outputs, ToW, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from forgetmi.audit.criteria import Criterion, Reading
from forgetmi.audit.measurements import Measurement, generator
from forgetmi.audit.options import COMPARISON_ATTACK, AuditOptions
from forgetmi.audit.scores import PartInfo
from forgetmi.metrics.figure import Figure
from forgetmi.metrics.forgetting import cosine_similarity, gap_to_retrained, tug_of_war, tug_of_war_mia

Get = Callable[[Measurement], Figure]

ATTACK_LABELS = {
    "loss": "attack on the loss",
    "entropy": "attack on the entropy",
    "modified_entropy": "attack on the modified entropy",
    "svc": "trained attack (SVC)",
    "calibrated": "attack on the loss against other models' (calibrated)",
    "attack_p": "attack on the loss against other records' (attack P)",
    "attack_r": "attack on the loss against reference models (attack R)",
    "rmia": "attack against reference models and other records (RMIA)",
    "lira": "attack with shadow models (LiRA)",
    "u_lira": "attack with unlearned shadow models (U-LiRA)",
    "ruli": "attack with unlearned shadow models (RULI)",
    "label_only": "attack on the predicted labels alone",
    "cross_modal": "attack on the pairing of modalities",
    "zlib": "attack on the loss against the text's compressed size (zlib)",
    "min_k": "attack on the least likely tokens (min-k)",
    "min_k_plus_plus": "attack on the least likely tokens, standardised (min-k++)",
    "gradient_norm": "attack on the size of the gradient",
    "perturbation": "attack on the loss against slightly changed texts",
}
_UTILITY_LABELS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "macro_f1": "macro-F1",
    "cross_entropy": "cross-entropy (CE)",
    "brier": "Brier score",
    "ece": "calibration error",
    "quadratic_kappa": "quadratic-weighted kappa",
    "mean_absolute_error": "mean absolute error",
    "perplexity": "perplexity",
}
_RIGHT_TOKENS = "share of tokens that are the likeliest one"
_PART_LABELS = {"forget": "Forgotten records", "retain": "Retained records", "test": "Test records"}


def rows(first: Measurement) -> dict[str, tuple[str, str, Get]]:
    """Row key to (group, label, how to get the figure). The same for every model."""
    found: dict[str, tuple[str, str, Get]] = {
        "people_found": ("people", "forgotten patients found as well known", lambda m: m.people),
        "people_marked": ("people", "forgotten patients found as treated badly", lambda m: m.people_marked),
    }
    found["exposed"] = ("people", "forgotten patients who stand out from every test patient", lambda m: m.exposed)
    found["marked_out"] = ("people", "forgotten patients treated worse than every test patient", lambda m: m.marked_out)
    for name in first.by_patient.figures if first.by_patient is not None else ():
        label = f"headline attack on patients, {figure_label(name)}"
        found[f"patient_{name}"] = ("people", label, _from_patients(name))
    for attack, result in first.attacks.items():
        for name in result.figures:
            # forget and test loss stand in rows of their own
            if not name.endswith("_loss"):
                label = f"{ATTACK_LABELS.get(attack, attack)}: {figure_label(name)}"
                found[f"{attack}_{name}"] = ("attacks", label, _from_attack(attack, name))
    for part in ("forget", "test", "retain"):
        for name in first.utility[part].figures:
            words = _RIGHT_TOKENS if _language(first) and name == "accuracy" else _UTILITY_LABELS.get(name, name)
            label = f"{_PART_LABELS[part]}: {words}"
            found[f"{part}_{name}"] = (part, label, _from_utility(part, name))
    found["loss_difference"] = ("forget", "Forgotten minus test records: CE", lambda m: m.loss_difference)
    for key, given in first.probes.items():
        found[key] = (given.probe.group, given.probe.label, _from_probe(key))
    if first.comparison is not None:
        label = "published attack (batch means): share of forget batches called members"
        found[COMPARISON_ATTACK] = ("published", label, _published)
    return found


def _language(measurement: Measurement) -> bool:
    return "perplexity" in measurement.utility["test"].figures


def compare(
    original: Measurement,
    unlearned: Measurement,
    retrained: Sequence[Measurement],
    controls: Mapping[str, Measurement] | None = None,
) -> dict[str, Any]:
    """Row key to the three models' values, with the gaps of two to the distribution of the third; and controls'."""
    table = {}
    for key, (group, label, get) in rows(original).items():
        values = [get(m).value for m in retrained]
        known = [value for value in values if value is not None]
        complete = len(known) == len(values)
        figure = get(original)
        table[key] = {
            "group": group,
            "label": label[0].upper() + label[1:],
            "direction": figure.direction,
            "n_patients": figure.n_patients,
            "n_samples": figure.n_samples,
            "original": _cell(figure, known if complete else []),
            "unlearned": _cell(get(unlearned), known if complete else []),
            "controls": {name: _cell(get(m), known if complete else []) for name, m in (controls or {}).items()},
            "retrained": {
                "values": values,
                "sentences": [get(m).sentence for m in retrained],
                "low": min(known) if complete else None,
                "high": max(known) if complete else None,
                "mean": float(np.mean(known)) if complete else None,
                "reason": None if complete else next(get(m).reason for m in retrained if get(m).value is None),
            },
        }
    return table


def in_people(figure: Figure) -> dict[str, Any]:
    """A share of patients in whole people; interval ends are rounded outwards."""
    n = figure.counts["n_members"]
    low, high = figure.interval.low, figure.interval.high
    return {
        "found": figure.counts["tp"],
        "accused": figure.counts["fp"],
        # 1e-9: 0.7 * 30 is 21 and not 20.999
        "low": None if low is None else math.floor(low * n + 1e-9),
        "high": None if high is None else math.ceil(high * n - 1e-9),
        "share": figure.counts["tp"] / n,
    }


def people(original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement]) -> dict[str, Any]:
    """Forgotten patients whom the headline attack finds, in whole people; interval ends are rounded outwards.

    ``known``: because the model knows them well. ``marked``: because it treats them worse than others.
    """

    def group(get: Get) -> dict[str, Any]:
        others = [in_people(get(m)) for m in retrained]
        return {
            "original": in_people(get(original)),
            "unlearned": in_people(get(unlearned)),
            "retrained": others,
            "retrained_low": min(other["found"] for other in others),
            "retrained_high": max(other["found"] for other in others),
        }

    figure = original.people
    return {
        "patients": figure.counts["n_members"],
        "outsiders": figure.counts["n_nonmembers"],
        "level": figure.interval.level,
        "known": group(lambda m: m.people),
        "marked": group(lambda m: m.people_marked),
    }


def criteria(
    original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement], options: AuditOptions
) -> list[Criterion]:
    """What the rule looks at: every attack's AUC, people who stand out, forget accuracy and CE, test AUC.

    Of language models the test loss in place of the test AUC, the forget loss less the test loss in place of forget
    accuracy and CE (a seed moves both parts alike), and the probes that are judged.
    """

    def make(key: str, label: str, kind: Any, read: Callable[[Measurement], Reading], headline: bool = False) -> Any:
        others = tuple(read(m) for m in retrained)
        return Criterion(key, label, kind, read(original), read(unlearned), others, headline)

    found = []
    for name in sorted(options.attacks, key=lambda a: a != options.headline):
        label = f"AUC of the {ATTACK_LABELS.get(name, name)}"
        read = _judged(name)
        found.append(make(f"{name}_auc", label, "attack", read, headline=name == options.headline))
    label = "Share of forgotten patients who stand out from every test patient"
    found.append(make("exposed", label, "exposed", lambda m: Reading(m.exposed.value, m.exposed.interval)))
    label = "Share of forgotten patients treated worse than every test patient"
    found.append(make("marked_out", label, "marked_out", lambda m: Reading(m.marked_out.value, m.marked_out.interval)))
    if not _language(original):
        label = "Accuracy on the forgotten records"
        found.append(make("forget_accuracy", label, "forget_accuracy", _u("forget_accuracy")))
        label = "Cross-entropy (CE) on the forgotten records"
        found.append(make("forget_cross_entropy", label, "forget_cross_entropy", _u("forget_cross_entropy")))
        found.append(make("test_auc", "AUC on the test records", "test_auc", _u("test_auc")))
        return found
    label = "Cross-entropy (CE) on the forgotten records, less that on the test records"
    difference = make(
        "loss_difference",
        label,
        "forget_cross_entropy",
        lambda m: Reading(m.loss_difference.value, m.loss_difference.interval),
    )
    found.append(difference)
    label = "Cross-entropy (CE) on the test records"
    found.append(make("test_cross_entropy", label, "test_cross_entropy", _u("test_cross_entropy")))
    for key, given in original.probes.items():
        if given.probe.judged:
            found.append(make(key, given.probe.label, given.probe.kind, _probed(key)))
    return found


def likeness(
    original: Measurement,
    unlearned: Measurement,
    retrained: Sequence[Measurement],
    parts: Mapping[str, PartInfo],
    options: AuditOptions,
    seed: int,
) -> dict[str, Any]:
    """Cosine similarity of logits to each retrained model's, beside the ceiling: retrained models among themselves.

    Empty for language models, which answer with a distribution for each token.
    """
    if _language(original):
        return {}

    def cosine(part: str, first: Measurement, second: Measurement) -> dict[str, Any]:
        logits = [np.asarray(m.scores.parts[part]["logits"], dtype=np.float64) for m in (first, second)]
        zero = int(sum((np.linalg.norm(z, axis=1) == 0.0).sum() for z in logits))
        if zero:
            return {"value": None, "low": None, "high": None, "reason": f"{zero} outputs are zero: no direction"}
        figure = cosine_similarity(
            logits[0],
            logits[1],
            parts[part].patients,
            generator(seed, f"cosine {part}"),
            n_resamples=options.n_bootstrap,
            level=options.level,
        )
        interval = figure.interval
        return {"value": figure.value, "low": interval.low, "high": interval.high, "reason": interval.reason}

    return {
        part: {
            "original": _mean([cosine(part, original, m) for m in retrained]),
            "unlearned": _mean([cosine(part, unlearned, m) for m in retrained]),
            "among_retrained": _mean([cosine(part, a, b) for a, b in combinations(retrained, 2)]),
        }
        for part in ("forget", "test")
    }


def tugs(
    original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement], headline: str
) -> dict[str, Any]:
    """ToW and ToW-MIA (MIA: the headline attack's AUC) to each retrained model, beside the same ceiling."""

    def accuracies(m: Measurement) -> list[float]:
        return [_number(m.utility[part].figures["accuracy"].value) for part in ("forget", "retain", "test")]

    def tow(m: Measurement, r: Measurement) -> float:
        own, other = accuracies(m), accuracies(r)
        return tug_of_war(*own, retrained_forget=other[0], retrained_retain=other[1], retrained_test=other[2])

    def tow_mia(m: Measurement, r: Measurement) -> float:
        own, other = accuracies(m), accuracies(r)
        mia, mia_r = (_number(x.attacks[headline].figures["auc"].value) for x in (m, r))
        return tug_of_war_mia(
            mia, own[1], own[2], retrained_mia=mia_r, retrained_retain=other[1], retrained_test=other[2]
        )

    def both(pairs: Sequence[tuple[Measurement, Measurement]]) -> dict[str, Any]:
        return {name: _spread([f(a, b) for a, b in pairs]) for name, f in (("tow", tow), ("tow_mia", tow_mia))}

    return {
        "original": both([(original, r) for r in retrained]),
        "unlearned": both([(unlearned, r) for r in retrained]),
        "among_retrained": both(list(combinations(retrained, 2))),
    }


def time_against_retraining(
    original: Measurement, unlearned: Measurement, retrained: Sequence[Measurement]
) -> dict[str, Any]:
    """Seconds, and unlearning's share of one retraining.

    Times of models that were made several at a time on one machine would flatter unlearning, which ran alone. Then the
    original's own training, by the same recipe and alone, stands for a retraining.
    """
    own = unlearned.scores.seconds
    seconds = [m.scores.seconds for m in retrained]
    known = [m.scores.seconds for m in retrained if m.scores.seconds is not None and m.scores.alone]
    first = original.scores.seconds if original.scores.alone else None
    one, what = (float(np.mean(known)), "retrained") if known else (first, None if first is None else "original")
    share = own / one if own is not None and one else None
    return {
        "unlearned_seconds": own,
        "retrained_seconds": seconds,
        "compared_with": what,
        "compared_seconds": one,
        "share_of_retraining": share,
        "reason": None if share is not None else "some of these times were not measured, or not alone on the machine",
    }


def _cell(figure: Figure, retrained_values: Sequence[float]) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "value": figure.value,
        "low": figure.interval.low,
        "high": figure.interval.high,
        "level": figure.interval.level,
        "interval_method": figure.interval.method,
        "reason": figure.reason or figure.interval.reason,
        "sentence": figure.sentence,
        "counts": dict(figure.counts),
        "gap": None,
        "reading": None,
    }
    if figure.value is not None and retrained_values:
        gap = gap_to_retrained(figure.value, retrained_values, figure.interval)
        cell["gap"] = gap.to_dict()
        # without an interval nothing is said: the point alone would promise too much
        cell["reading"] = figure.reading(gap.position_widened) if gap.position_widened else None
    return cell


def figure_label(name: str) -> str:
    """An attack's figure in plain words."""
    if name.startswith("tpr_at_fpr_"):
        return f"share found at {100 * float(name.removeprefix('tpr_at_fpr_')):g} % false alarms"
    return {
        "auc": "AUC",
        "balanced_accuracy": "balanced accuracy",
        "share_called_member": "share of forget records called members",
        "forget_loss": "mean loss of the forget records",
        "test_loss": "mean loss of the test records",
        "auc@same_number_of_records": "AUC among patients with as many records",
        "auc@number_of_records": "AUC of the number of records alone, whatever the model says",
    }.get(name, name)


def _from_attack(attack: str, name: str) -> Get:
    return lambda m: m.attacks[attack].figures[name]


def _from_probe(key: str) -> Get:
    return lambda m: m.probes[key].figure


def _probed(key: str) -> Callable[[Measurement], Reading]:
    def read(measurement: Measurement) -> Reading:
        found = measurement.probes[key]
        return Reading(found.figure.value, found.judged or found.figure.interval)

    return read


def _from_patients(name: str) -> Get:
    def get(measurement: Measurement) -> Figure:
        if measurement.by_patient is None:
            raise KeyError(name)
        return measurement.by_patient.figures[name]

    return get


def _from_utility(part: str, name: str) -> Get:
    return lambda m: m.utility[part].figures[name]


def _published(measurement: Measurement) -> Figure:
    if measurement.comparison is None:
        raise KeyError(COMPARISON_ATTACK)
    return measurement.comparison.figures["share_called_member"]


def _judged(attack: str) -> Callable[[Measurement], Reading]:
    return lambda m: Reading(m.attacks[attack].figures["auc"].value, m.attack_intervals[attack])


def _u(key: str) -> Callable[[Measurement], Reading]:
    part, name = key.split("_", 1)

    def read(measurement: Measurement) -> Reading:
        figure = measurement.utility[part].figures[name]
        return Reading(figure.value, figure.interval)

    return read


def _mean(cells: list[dict[str, Any]]) -> dict[str, Any]:
    values = [cell["value"] for cell in cells if cell["value"] is not None]
    return {"pairs": cells, "mean": float(np.mean(values)) if len(values) == len(cells) else None}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"values": list(values), "mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def _number(value: float | None) -> float:
    if value is None:
        raise TypeError("accuracy and AUC always have a value")
    return value
