"""Parts with every signal, under an attacked model and reference models of every kind, with leakage of known size.

A record's scaled logit is its difficulty (the same under all models), plus noise of one standard deviation that each
model draws anew, plus ``shift`` under models that remember the record. All other signals follow from the scaled logit.
Members have been seen by the attacked model, half of the shadows and half of the unlearned shadows (which still
remember); retrained models have seen nobody.
"""

from dataclasses import replace

import numpy as np

from forgetmi.attacks.membership.result import PartSignals, References

N_QUERIES = 5


def of_language(phi):
    """Signals of a language model from the same number, of their signs."""
    loss = np.logaddexp(0.0, -phi)
    steep = loss * (1.1 - np.exp(-loss))
    above = {"zlib": 0.3 * phi, "min_k": -1.5 * loss, "min_k_plus_plus": np.tanh(phi / 3), "perturbation": 4.0 + phi}
    return {**above, "gradient_norm": steep}


def signals(phi, rng):
    """Every signal of a two-way choice from scaled logits [..., n]."""
    loss = np.logaddexp(0.0, -phi)
    p = np.exp(-loss)
    views = phi[..., None] + 0.7 * rng.normal(size=(*phi.shape, N_QUERIES))
    views[..., 0] = phi
    return {
        "loss": loss,
        "entropy": p * loss + (1 - p) * np.logaddexp(0.0, phi),
        "modified_entropy": 2 * (1 - p) * loss,
        "scaled_logit": phi,
        "correct": (views > 0).astype(float),
        **of_language(phi),
        "scaled_logit@image": 0.5 * phi + rng.normal(size=phi.shape),
        "scaled_logit@text": 0.5 * phi + rng.normal(size=phi.shape),
    }


def part(name, n_patients, member, rng, *, shift, records=2, n_references=16, seen=True):
    """One part; ``seen``: half of the shadows saw a patient, or none did."""
    n = n_patients * records
    patients = np.repeat([f"secret-{name}{k}" for k in range(n_patients)], records)
    difficulty = 1.0 + 1.5 * rng.normal(size=n)

    def phi(remembered):
        return difficulty + shift * remembered + rng.normal(size=np.shape(remembered))

    half = np.repeat([True, False], n_references // 2)
    drawn = rng.permuted(np.broadcast_to(half[:, None], (n_references, n_patients)), axis=0)
    drawn = np.repeat(drawn, records, axis=1) & seen
    nobody = np.zeros((n_references, n), dtype=bool)
    references = {
        kind: References(signals(phi(saw), rng), saw)
        for kind, saw in (("shadows", drawn), ("unlearned_shadows", drawn), ("retrained", nobody))
    }
    return PartSignals(signals(phi(np.full(n, member)), rng), patients, references)


def parts(seed=0, *, shift=2.0, forget=30, test=60, retain=60, population=60, n_references=16):
    """Forget, test, retain and population: arguments are numbers of patients, of two records each."""
    rng = np.random.default_rng(seed)
    some = {"shift": shift, "n_references": n_references}
    return {
        "forget": part("f", forget, True, rng, **some),
        "test": part("t", test, False, rng, **some),
        "retain": part("r", retain, True, rng, **some),
        "population": part("p", population, False, rng, **some, seen=False),
    }


def run(attack, data, seed=1):
    others = {name: data.get(name) for name in ("retain", "population")}
    return attack.result(data["forget"], data["test"], np.random.default_rng(seed), **others)


def taken(signals_, records=slice(None), models=slice(None)):
    """A part with its records, and its reference models, in another order, or fewer of them."""
    own = {name: np.asarray(values)[records] for name, values in signals_.signals.items()}
    references = {
        kind: References(
            {name: np.asarray(values)[models][:, records] for name, values in given.signals.items()},
            np.asarray(given.seen)[models][:, records],
        )
        for kind, given in signals_.references.items()
    }
    return PartSignals(own, np.asarray(signals_.patients)[records], references)


def without_references(data):
    return {name: replace(value, references={}) for name, value in data.items()}


def only(data, kind):
    return {name: replace(value, references={kind: value.references[kind]}) for name, value in data.items()}
