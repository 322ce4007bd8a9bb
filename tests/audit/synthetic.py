"""Made-up models with a known answer: logits of records of a shared difficulty, plus memory where a model has it."""

from __future__ import annotations

import hashlib

import numpy as np

from forgetmi.attacks.membership import signals
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo

CONTEXT = AuditContext("multiclass", 4)
SIZES = {"forget": 30, "retain": 900, "validation": 150, "test": 600}


class World:
    """Records of a fixed difficulty; `model` makes a model of them.

    ``memory`` is added to the true class's logit of training records (retain always has it).
    """

    def __init__(self, seed=0, sizes=None, records_per_patient=1, n_classes=4):
        rng = np.random.default_rng(seed)
        self.sizes = {**SIZES, **(sizes or {})}
        self.context = AuditContext("multiclass", n_classes)
        self.parts, self.base = {}, {}
        first = 0
        for name, n_patients in self.sizes.items():
            n = n_patients * records_per_patient
            labels = rng.integers(0, n_classes, n)
            labels[: min(n, n_classes)] = np.arange(min(n, n_classes))
            patients = first + np.repeat(np.arange(n_patients), records_per_patient)
            first += n_patients
            base = rng.normal(0, 1.2, (n, n_classes))
            base[np.arange(n), labels] += 2.4
            self.parts[name], self.base[name] = PartInfo(labels, patients), base

    def model(self, role, index=0, *, seed=0, forget_memory=0.0, memory=3.0, noise=0.5, change=None, seconds=60.0):
        rng = np.random.default_rng([seed, 7])
        parts = {}
        for name, info in self.parts.items():
            logits = self.base[name] + rng.normal(0, noise, self.base[name].shape)
            rows = np.arange(len(info.labels))
            logits[rows, info.labels] += {"forget": forget_memory, "retain": memory}.get(name, 0.0)
            if change is not None:
                logits = change(name, logits, info.labels, rng)
            logits = logits.astype(np.float32)
            parts[name] = {"nll": signals.nll(logits, info.labels).astype(np.float32), "logits": logits}
        sha = hashlib.sha256(f"{role} {index} {seed}".encode()).hexdigest()
        return ModelScores(role, parts, sha, index, seconds)

    def trio(self, n_retrained=3, unlearned=None, original_memory=3.0):
        """(original, unlearned, retrained); the unlearned one is as a retrained model unless given."""
        original = self.model("original", seed=1, forget_memory=original_memory)
        retrained = [self.model("retrained", i, seed=10 + i, seconds=55.0 + i) for i in range(n_retrained)]
        if unlearned is None:
            unlearned = self.model("unlearned", seed=2, seconds=9.0)
        return original, unlearned, retrained


def run_document(evidence, **changes):
    """A `run.json` that fits the evidence of the world above."""
    hashes = {role: evidence["models"][role]["weights_sha256"] for role in ("original", "unlearned")}
    counts = {name: {"patients": n, "studies": n, "samples": n} for name, n in SIZES.items()}
    document = {
        "schema": "forgetmi.run/1",
        "name": "demo",
        "created": "2026-01-02T03:04:05Z",
        "seed": 7,
        "environment": {
            "forgetmi": "0.1.0",
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "packages": {"torch": "2.15.0", "scikit-learn": "1.9.1", "numpy": "2.4.0"},
            "device": "cpu",
        },
        "config_given": {"method": {"name": "forget_mi"}},
        "config_resolved": {"method": {"name": "forget_mi", "epochs": 30}, "audit": {"n_retrained": 3}},
        "request": {"level": "patient", "source_kind": "csv", "n_ids": 30, "digest": "d" * 64},
        "data": {
            "name": "indiana_demo",
            "fingerprint": "f" * 64,
            "counts": counts,
            "notes": ["The films are rendered from report labels: they are not X-rays, and no clinical claim follows."],
            "license_note": "Reports: CC BY-NC-ND 4.0; read from the installed package, not copied.",
            "skipped": {"near-duplicate report": 713, "no findings section": 28},
            "leftovers": {"institution": 0, "patient": 0, "study": 0, "sample": 0, "modality": 0},
        },
        "models": {
            "original": {"weights_sha256": hashes["original"], "seconds": 61.2, "path": "models/original", "seed": 7},
            "unlearned": {"weights_sha256": hashes["unlearned"], "seconds": 9.0, "path": "models/unlearned", "seed": 7},
            "retrained": [
                {
                    "weights_sha256": model["weights_sha256"],
                    "seconds": 55.0,
                    "path": f"models/retrained_{i}",
                    "seed": 100,
                }
                for i, model in enumerate(evidence["models"]["retrained"])
            ],
        },
        "method": {
            "name": "forget_mi",
            "paper": "Forget-MI",
            "summary": "Pulls the forgotten records' embeddings towards noised ones, holds the others in place.",
            "options": {"variant": "attract_noisy", "lr": 1e-4, "epochs": 30},
        },
        "stages": [{"name": "train", "seconds": 61.2, "peak_memory_mb": 1200.0}, {"name": "audit", "seconds": 12.0}],
        "key_fingerprint": "0f1e2d3c",
        "case": {"reference": "DPO-2026-17", "legal_basis": "GDPR art. 17"},
    }
    return {**document, **changes}
