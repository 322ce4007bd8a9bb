"""How often the rule is wrong on language models, over many made-up audits."""

from __future__ import annotations

from collections import Counter

import pytest

from forgetmi.audit import comparison
from forgetmi.audit.measurements import measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.verdict import judge
from tests.audit.language_world import CONTEXT, SeededWorld


def audited(seed, **world):
    """The original and two models that never saw the patients, each in the unlearned one's place."""
    made = SeededWorld(seed, **world)
    original = made.model("original", number=0, memory=1.0)
    retrained = [made.model("retrained", i, number=1 + i) for i in range(5)]
    source = SignalSource(made.parts, CONTEXT, retrained)
    options = AuditOptions(n_bootstrap=300).with_attacks(
        source.n_references, language=True, judged_probes=len(original.probes)
    )

    def measured(model):
        return measure_model(model, made.parts, CONTEXT, options, seed, source)

    before, group = measured(original), [measured(model) for model in retrained]
    sizes = {f"n_{part}_patients": made.parts[part].n_patients for part in ("forget", "test")}
    candidates = [before, *(measured(made.model("unlearned", number=50 + n)) for n in range(2))]
    for name, model in zip(("original", "never saw", "never saw"), candidates, strict=True):
        yield name, judge(comparison.criteria(before, model, group, options), **sizes, options=options).decision


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [{}, {"records": 3}, {"n_forget": 200, "n_test": 200}, {"records": 3, "common": 0.04, "own": 0.05}],
    ids=["one record", "three records", "many patients", "seeds move all records together"],
)
def test_models_that_never_saw_the_patients_seldom_fail_and_originals_do(world):
    found = {"original": Counter(), "never saw": Counter()}
    for seed in range(10):
        for name, decision in audited(seed, **world):
            found[name][decision] += 1
    assert found["original"] == {"fail": 10}
    assert found["never saw"]["fail"] <= 3  # of 20: more would come by chance in 2 of 100 runs at a rate of 5 %
