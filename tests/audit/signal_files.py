"""Made-up files of signals whose truth is known. Every id begins with SECRET: none may be found in anything written."""

from __future__ import annotations

import numpy as np
import pandas as pd

SIZES = {"member": 40, "nonmember": 80}
ALL_PARTS = {"member": 30, "retain": 60, "population": 40, "nonmember": 120}


def frame(models=("target",), sizes=None, *, leak=None, classes=3, seed=0, records=1, views=1, noise=0.3, exposed=0):
    """One row a (record, model, view), probabilities.

    Args:
        leak: model to what it adds to the true class's logit of members (retained records get 1.5 of every model).
        records: a patient.
        exposed: of the members, so many are known perfectly by every model that leaks at all.
    """
    rng = np.random.default_rng(seed)
    rows, number, leak = [], 0, leak or {}
    for part, n_patients in (sizes or SIZES).items():
        for patient in range(n_patients):
            for _ in range(records):
                number += 1
                label = int(rng.integers(classes))
                base = rng.normal(0.0, 1.0, classes)
                base[label] += 1.0
                for model in models:
                    for view in range(views):
                        logits = base + rng.normal(0.0, noise, classes)
                        logits[label] += {"member": leak.get(model, 0.0), "retain": 1.5}.get(part, 0.0)
                        if part == "member" and patient < exposed and leak.get(model):
                            logits[label] += 20.0
                        p = np.exp(logits - logits.max())
                        rows.append(
                            {
                                "record": f"SECRET-r{number}",
                                "patient": f"SECRET-{part}-{patient}",
                                "part": part,
                                "label": label,
                                "model": model,
                                "query": view,
                                "group_sex": "fm"[patient % 2],
                                **{f"p_{k}": v for k, v in enumerate(p / p.sum())},
                            }
                        )
    made = pd.DataFrame(rows)
    made = made if views > 1 else made.drop(columns="query")
    return made if models != ("target",) else made.drop(columns="model")


def true_loss(table):
    """-ln p_y of a frame of probabilities."""
    columns = [name for name in table if name.startswith("p_")]
    p = table[columns].to_numpy()
    return -np.log(p[np.arange(len(p)), table["label"]])


def as_kind(table, kind):
    """The same answers as losses, logits, scaled logits, or right and wrong."""
    columns = [name for name in table if name.startswith("p_")]
    rest, p = table.drop(columns=columns), table[columns].to_numpy()
    loss = true_loss(table)
    if kind == "probabilities":
        return table
    if kind == "logits":
        return rest.assign(**{f"logit_{k}": np.log(p[:, k]) + 3.0 for k in range(p.shape[1])})
    values = {"loss": loss, "phi": -np.log(np.expm1(loss)), "correct": (p.argmax(axis=1) == table["label"]).astype(int)}
    return rest.drop(columns="label").assign(**{kind: values[kind]})


def with_shadows(table, n=16, *, seed=0, gain=2.0, noise=0.3):
    """Rows of balanced shadow models beside a frame of losses of one target model."""
    rng = np.random.default_rng([seed, 1])
    patients = sorted(set(table["patient"]))
    rows = [table.assign(model="target", seen="")]
    for number in range(1, n + 1):
        chosen = set(rng.permutation(patients)[: len(patients) // 2])
        seen = table["patient"].isin(chosen).to_numpy()
        loss = table["difficulty"] * np.exp(rng.normal(0, noise, len(table)) - gain * seen)
        rows.append(table.assign(model=f"shadow-{number}", seen=seen.astype(int), loss=loss))
    return pd.concat(rows).drop(columns="difficulty")
