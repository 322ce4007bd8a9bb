"""One world and its evidence, made once."""

from __future__ import annotations

import pytest

from forgetmi.audit.evidence import build_evidence
from forgetmi.audit.options import AuditOptions
from tests.audit.synthetic import World

OPTIONS = AuditOptions(n_bootstrap=200)
QUICK = AuditOptions(attacks=("loss", "entropy"), published_svc=False, n_bootstrap=200)


@pytest.fixture(scope="session")
def world():
    return World(sizes={"retain": 300, "validation": 40, "test": 300})


@pytest.fixture(scope="session")
def scores(world):
    return world.trio(3)


@pytest.fixture(scope="session")
def evidence(world, scores):
    original, unlearned, retrained = scores
    return build_evidence(original, unlearned, retrained, world.parts, world.context, OPTIONS, 5)


@pytest.fixture(scope="session")
def audit(world):
    """Evidence of an unlearned model that is given, quickly."""

    def run(unlearned=None, n_retrained=3, options=QUICK, world=world, **settings):
        original, default, retrained = world.trio(n_retrained, **settings)
        return build_evidence(original, unlearned or default, retrained, world.parts, world.context, options, 5)

    return run
