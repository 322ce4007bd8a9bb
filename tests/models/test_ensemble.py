"""Ensembles: means of probabilities by hand, and a round trip."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from forgetmi.errors import ModelError
from forgetmi.models import MODELS
from forgetmi.models.ensemble import Ensemble
from forgetmi.models.output import ModelOutput
from forgetmi.models.persistence import load_model, save_model
from tests.tiny import classifier_case, tiny_classifier


class Says(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, batch) -> ModelOutput:
        return ModelOutput(self.logits)


def test_probabilities_are_averaged_not_logits():
    both = Ensemble([Says(math.log(9.0), 0.0), Says(0.0, 0.0)], [1.0, 1.0])
    assert both(None).logits.softmax(dim=1)[0].tolist() == pytest.approx([0.7, 0.3])
    weighed = Ensemble([Says(math.log(9.0), 0.0), Says(0.0, 0.0)], [3.0, 1.0])
    assert weighed(None).logits.softmax(dim=1)[0].tolist() == pytest.approx([0.8, 0.2])
    labels = Ensemble([Says(math.log(9.0)), Says(0.0)], [1.0, 1.0], "independent")
    assert labels(None).logits.sigmoid().tolist() == [[pytest.approx(0.7)]]
    extreme = Ensemble([Says(300.0, -300.0), Says(200.0, 0.0)], [1.0, 1.0])
    assert torch.isfinite(extreme(None).logits).all()


def test_outputs_of_other_kinds_keep_their_kind():
    class Other(Says):
        def forward(self, *, input_ids):
            return SimpleNamespace(logits=self.logits.expand(2, 3, 2))

    found = Ensemble([Other(0.0, 1.0), Other(1.0, 0.0)], [1.0, 1.0])(input_ids=None)
    assert found.logits.softmax(dim=-1) == pytest.approx(torch.full((2, 3, 2), 0.5))


def test_one_member_alone_says_what_it_says_and_a_stored_ensemble_comes_back(tmp_path):
    case = classifier_case()
    batch = case.loader.batch(case.partition.test)
    ensemble = Ensemble([tiny_classifier(k) for k in range(2)], [1.0, 2.0]).eval()
    with torch.no_grad():
        alone = Ensemble([ensemble.members[0]], [5.0]).eval()(batch).logits
        assert torch.allclose(alone.softmax(1), ensemble.members[0](batch).logits.softmax(1), atol=1e-6)
        save_model(ensemble, tmp_path / "m", modalities=case.loader.modalities, task_config={})
        again = load_model(tmp_path / "m").model
        assert torch.equal(again(batch).logits, ensemble(batch).logits)
    assert "ensemble" in MODELS


def test_weights_that_do_not_fit_are_refused():
    for members, weights in (([], []), ([Says(0.0)], [1.0, 2.0]), ([Says(0.0)], [0.0])):
        with pytest.raises(ModelError, match="one > 0 each"):
            Ensemble(members, weights)
