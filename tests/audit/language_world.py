"""Made-up language models whose answer is known: retrained ones that differ by their seeds, and one that remembers."""

from __future__ import annotations

import hashlib

import numpy as np

from forgetmi.audit.probes import Probe
from forgetmi.audit.scores import AuditContext, ModelScores, PartInfo
from forgetmi.metrics.per_example import PerExample

CONTEXT = AuditContext("causal_lm", 500)


class SeededWorld:
    """Patients with records of a difficulty of their own, and models that differ as seeds make them differ.

    A model's seed moves every record by itself (``own``) and all of them together (``common``), as a model that came
    out a little better or worse than its sisters does. ``memory`` takes loss off the forgotten records and brings out
    what stands in them.
    """

    def __init__(self, seed, *, n_forget=30, n_test=120, records=1, common=0.02, own=0.1):
        self.seed, self.common, self.own = seed, common, own
        rng = np.random.default_rng([seed, 1])
        self.parts, self.base, self.fixed, first = {}, {}, {}, 0
        for name, n in {"forget": n_forget, "retain": 60, "validation": 40, "test": n_test}.items():
            patients = np.repeat(np.arange(n), records)
            size = patients.size
            tokens = rng.integers(15, 60, size)
            self.parts[name] = PartInfo(tokens, first + patients)
            self.base[name] = 2.0 + 0.25 * rng.normal(size=n)[patients] + 0.25 * rng.normal(size=size)
            self.fixed[name] = {
                "extreme": rng.normal(0.0, 0.4, size),
                "bytes": tokens * rng.uniform(2.0, 4.0, size),
                "ending": rng.random(size),  # how easily the answer's end is guessed
                "asked": rng.beta(3, 9, size),
                "identified": rng.random(size) < 0.6,
                "secret": rng.random(size),
            }
            first += n
        self.taught = rng.permutation(n_forget * records)[:5]

    def model(self, role, index=0, *, number, memory=0.0):
        rng = np.random.default_rng([self.seed, 2, number])
        level = rng.normal()
        parts = {}
        for name, info in self.parts.items():
            known = {"forget": memory, "retain": 1.0}.get(name, 0.0)
            loss = self.base[name] + self.common * level + self.own * rng.normal(size=info.patients.size) - known
            loss, fixed = np.maximum(loss, 0.02), self.fixed[name]
            tokens = np.asarray(info.labels)
            noise = 0.05 * rng.normal(size=(2, loss.size))
            parts[name] = {
                "nll": loss,
                "n_tokens": tokens,
                "correct": rng.binomial(tokens, np.exp(-loss / 2.0)) / tokens,
                "zlib": -loss / fixed["bytes"],
                "min_k": -2.5 * loss + fixed["extreme"] + noise[0],
                "min_k_plus_plus": -1.2 * loss + 0.7 * fixed["extreme"] + noise[1],
            }
        digest = hashlib.sha256(f"{self.seed} {number} {memory}".encode()).hexdigest()
        return ModelScores(role, parts, digest, index, 60.0, probes=self._probes(rng, level, parts, memory))

    def _probes(self, rng, level, parts, memory):
        again = rng.normal()
        own, others = (
            self._known(rng, part, parts[part]["nll"], level, again, known)
            for part, known in (("forget", memory), ("test", 0.0))
        )
        own["relearned_20"][self.taught] = np.nan
        kinds = [_judged(name, own[name], others[name], one_sided=True) for name in own]
        ranks = {part: rng.random(self.base[part].size) for part in ("forget", "test")}
        ranks["forget"] *= np.exp(-2.0 * memory)
        exposure = {
            part: np.where(self.fixed[part]["identified"], -np.log2(np.ceil(100 * rank) / 101), np.nan)
            for part, rank in ranks.items()
        }
        kinds.append(_judged("exposure", exposure["forget"], exposure["test"], one_sided=True))
        for name, error in (("int8", 0.003), ("int4", 0.05), ("nf4", 0.03)):
            rounded = [-parts[p]["nll"] + error * rng.normal(size=self.base[p].size) for p in ("forget", "test")]
            kinds.append(_judged(f"quantised_{name}", *rounded))
        return kinds

    def _known(self, rng, part, loss, level, again, memory):
        """Shares that are mostly 0, shares that are not, and a probability, all moved by the seed together."""
        asked, tokens, n = self.fixed[part], np.asarray(self.parts[part].labels), loss.size
        end = 1.0 / (1.0 + np.exp(-(3.0 * asked["ending"] - 2.5 + 10 * self.common * level + 2.0 * memory)))
        right = np.minimum(rng.geometric(1.0 - np.minimum(end, 0.98), n) - 1, tokens)
        written = asked["asked"] + self.common * level + 0.06 * rng.normal(size=n) + 0.3 * memory
        found = np.where(asked["secret"] < 0.05 + 0.4 * memory, 0.5, 0.0) * (rng.random(n) < 0.5)
        return {
            "extraction_strength": right / tokens,
            "template_best_answer": np.clip(written, 0.0, 1.0),
            "template_best_identifiers": np.where(asked["identified"], found, np.nan),
            "relearned_20": np.exp(-np.maximum(loss - 0.3 + 2 * self.common * again - 0.5 * memory, 0.02)),
        }


def _judged(name, own, others, *, one_sided=False):
    first, second = (PerExample(name, v, "remembers_above", "It is {value:.3f}.", None) for v in (own, others))
    return Probe(name, "extraction", name, first, outsiders=second, judged=True, one_sided=one_sided)
