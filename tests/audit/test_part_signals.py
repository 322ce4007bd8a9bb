"""Which signals an attack sees, and which models it may compare with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forgetmi.attacks.membership import signals
from forgetmi.audit.known_answers import known_answers
from forgetmi.audit.measurements import measure_model
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.part_signals import SignalSource
from forgetmi.audit.scores import ReferenceScores, retrained_as_references
from forgetmi.errors import AuditError
from tests.audit.synthetic import World

SIZES = {"forget": 12, "retain": 20, "validation": 15, "test": 25}


@pytest.fixture(scope="module")
def world():
    return World(seed=3, sizes=SIZES)


@pytest.fixture(scope="module")
def trio(world):
    return world.trio(4)


def test_signals_are_those_of_the_logits_and_references_those_of_the_retrained_models(world, trio):
    original, _, retrained = trio
    given = SignalSource(world.parts, world.context, retrained).of(original)
    for part in ("forget", "retain", "test", "validation"):
        logits, labels = original.parts[part]["logits"], world.parts[part].labels
        np.testing.assert_allclose(given[part].get("loss"), original.parts[part]["nll"])
        np.testing.assert_allclose(given[part].get("scaled_logit"), signals.scaled_logit(logits, labels))
    for part in ("forget", "test", "validation"):
        phi, seen = given[part].under_references("retrained", "scaled_logit")
        for k, model in enumerate(retrained):
            expected = signals.scaled_logit(model.parts[part]["logits"], world.parts[part].labels)
            np.testing.assert_allclose(phi[k, :, 0], expected)
        assert not seen.any()
    assert given["retain"].references == {}  # retrained models saw the retain records


def test_a_retrained_model_is_no_reference_of_its_own(world, trio):
    source = SignalSource(world.parts, world.context, trio[2])
    every = source.of(trio[0])["forget"].under_references("retrained", "loss")[0]
    for i, model in enumerate(trio[2]):
        others = [k for k in range(4) if k != i]
        found = source.of(model)["forget"].under_references("retrained", "loss")[0]
        np.testing.assert_array_equal(found, every[others])
        fewer = source.of(model, without={trio[2][others[0]].weights_sha256})["forget"]
        np.testing.assert_array_equal(fewer.under_references("retrained", "loss")[0], every[others[1:]])
    alone = source.of(trio[2][0], without={m.weights_sha256 for m in trio[2]})["forget"]
    with pytest.raises(AuditError, match="reference models"):
        alone.under_references("retrained", "loss")


def test_what_is_said_by_labels_alone_and_by_one_modality_is_passed_on(world, trio):
    parts = {name: dict(arrays) for name, arrays in trio[0].parts.items()}
    for name, arrays in parts.items():
        arrays["correct"] = np.ones((len(arrays["nll"]), 3))
        arrays["logits@image"] = trio[1].parts[name]["logits"]
    given = SignalSource(world.parts, world.context).of(replace(trio[0], parts=parts))["forget"]
    assert given.queries("correct").shape == (12, 3)
    np.testing.assert_allclose(given.get("loss@image"), trio[1].parts["forget"]["nll"], rtol=1e-5)


@pytest.mark.parametrize("change", ["shape", "nan", "part"])
def test_references_that_do_not_fit_are_refused(world, trio, change):
    parts = {name: dict(arrays) for name, arrays in retrained_as_references(trio[2]).parts.items()}
    if change == "shape":
        parts["test"]["seen"] = parts["test"]["seen"][:, :-1]
    elif change == "nan":
        parts["forget"]["nll"] = np.full_like(parts["forget"]["nll"], np.nan)
    else:
        del parts["validation"]
    with pytest.raises(AuditError, match="shadows"):
        SignalSource(world.parts, world.context, trio[2], {"shadows": ReferenceScores("shadows", parts)})


def test_twenty_exposed_of_two_thousand_are_seen_although_the_average_is_not():
    from forgetmi.attacks.membership.result import AttackResult
    from forgetmi.audit.measurements import _standing_out
    from forgetmi.metrics.roc import auc

    rng = np.random.default_rng(0)
    scores, member = rng.normal(size=4000), np.repeat([True, False], 2000)
    scores[:20] = 50.0
    options = AuditOptions().with_attacks({"retrained"})
    result = AttackResult("loss", "", {}, {}, scores=scores, member=member, patient=np.arange(4000))
    found = _standing_out(result, options, turned=False)
    assert auc(scores, member) == pytest.approx(0.5, abs=0.03)
    assert found.counts["tp"] >= 20 and found.interval.low > 0.004
    scores[:20] = rng.normal(size=20)
    nobody = _standing_out(result, options, turned=False)
    assert nobody.interval.low == 0.0


@pytest.mark.parametrize(
    ("shadows", "chosen", "again"),
    [(False, {}, True), (True, {}, False), (True, {"calibrated": {"reference_models": "retrained"}}, True)],
)
def test_a_held_out_model_does_not_stand_among_the_others_references(world, trio, shadows, chosen, again):
    from forgetmi.audit import comparison

    original, unlearned, retrained = trio
    options = AuditOptions(attacks=("loss", "calibrated"), attack_options=chosen, published_svc=False, n_bootstrap=200)
    others = {"shadows": ReferenceScores("shadows", retrained_as_references(retrained).parts)} if shadows else {}
    source = SignalSource(world.parts, world.context, retrained, others)
    measured = [
        measure_model(m, world.parts, world.context, options, 0, source) for m in (original, unlearned, *retrained)
    ]
    criteria = comparison.criteria(measured[0], measured[1], measured[2:], options)
    sizes = {"n_forget_patients": 12, "n_test_patients": 25}
    seen = []

    def spy(self, scores, without=(), real=SignalSource.of):
        seen.append((scores.index, set(without)))
        return real(self, scores, without)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SignalSource, "of", spy)
        found = known_answers(criteria, retrained, source, sizes, options, 0)
    assert found["n_held_out"] == 4
    expected = [(j, {retrained[i].weights_sha256}) for i in range(4) for j in range(4) if i != j]
    assert seen == (expected if again else [])
