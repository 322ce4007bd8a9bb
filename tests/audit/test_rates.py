"""How often the rule is right, over many made-up audits of 30 forgotten and 600 test patients."""

from __future__ import annotations

from collections import Counter

import pytest

from forgetmi.audit import comparison
from forgetmi.audit.measurements import measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.verdict import judge
from tests.audit.synthetic import World

OPTIONS = AuditOptions(n_bootstrap=300, published_svc=False)


@pytest.mark.slow
def test_retrained_models_pass_originals_fail_and_over_forgetting_is_seen():
    found = {name: Counter() for name in ("retrained", "original", "over")}
    for seed in range(20):
        world = World(seed=seed, sizes={"retain": 400, "validation": 10})

        def measured(role, number, memory=0.0, world=world, seed=seed):
            scores = world.model(role, seed=100 * seed + number, forget_memory=memory)
            return measure_model(scores, world.parts, world.context, OPTIONS, seed)

        original = measured("original", 1, 1.3)  # attack AUC about 0.7
        retrained = [measured("retrained", 10 + i) for i in range(4)]
        candidates = {"retrained": retrained[3], "original": original, "over": measured("unlearned", 4, -1.0)}
        for name, candidate in candidates.items():
            criteria = comparison.criteria(original, candidate, retrained[:3], OPTIONS)
            verdict = judge(criteria, n_forget_patients=30, n_test_patients=600, options=OPTIONS)
            found[name][verdict.decision] += 1
    assert found["retrained"]["pass"] >= 18
    assert found["original"] == {"fail": 20}
    assert found["over"]["fail"] >= 18
