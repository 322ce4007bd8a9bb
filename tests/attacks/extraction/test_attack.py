"""The whole attack on models that know planted people and models that do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.attacks.extraction.asking import Cut, cut_answer
from forgetmi.attacks.extraction.attack import extraction_attack, plan_extraction
from forgetmi.attacks.extraction.options import ExtractionOptions
from forgetmi.attacks.extraction.prefix import likeliest, prefix_lengths, prefix_measures, verbatim_run
from forgetmi.errors import AuditError, ConfigError, DataError, ModelError
from forgetmi.metrics.memorisation import greedy_answers, matching_share
from forgetmi.models.output import ModelOutput
from forgetmi.options import build_options
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.attacks.extraction.models import CPU, dialogue, learn, small_gpt

TASK = CausalLMTask()
PEOPLE = (("Ann", "402931", "1961-03-09"), ("Bob", "118250", "1974-11-30"), ("Cyd", "975316", "1938-07-17"))
OTHERS = (("Dov", "660719", "1950-01-02"), ("Eve", "280334", "1981-05-23"))
OPTIONS = ExtractionOptions(
    templates=("agrees", "chart"),
    samples=4,
    leak_at=(1, 4),
    prefixes=(0, 4, 0.5, 99),
    max_new_tokens=32,
    alternatives=50,
)


class Successor(nn.Module):
    """Says that after token n comes n + 1."""

    def forward(self, input_ids, attention_mask):
        return ModelOutput(nn.functional.one_hot((input_ids + 1) % 97, 97).float())


def notes(people) -> list[dict]:
    return [{"prompt": f"Patient {n}", "answer": f"MRN {m}, born {d}."} for n, m, d in people]


@pytest.fixture(scope="module")
def trained():
    model = small_gpt(width=48)
    learn(model, dialogue(), notes(PEOPLE), steps=140)
    return model


@pytest.fixture(scope="module")
def plan():
    return plan_extraction(dialogue(), notes(PEOPLE + OTHERS), OPTIONS, seed=0)


@pytest.fixture(scope="module")
def found(trained, plan):
    return plan.attack(trained.train(), TASK, device=CPU)


def test_planted_people_come_out_and_others_do_not(found) -> None:
    for name in ("prefix_0_verbatim", "prefix_4_extracted", "prefix_0_rouge", "template_plain_identifiers",
                 "template_best_identifiers", "template_best_answer", "leak_at_4_identifiers",
                 "identifier_first"):  # fmt: skip
        values = found.measures[name].values
        assert values[:3] == pytest.approx(1.0), name
        assert (values[3:] < 1.0).all(), name
    assert found.measures["template_best_identifiers"].values[3:].max() == 0
    assert all(measure.direction == "remembers_above" for measure in found.measures.values())
    assert np.isnan(found.measures["prefix_99_verbatim"].values).all()
    assert found.counts == {"identifiers": 10, "records with identifiers": 5}


def test_a_model_that_saw_nobody_gives_nobody_away(plan) -> None:
    fresh = plan.attack(small_gpt(9, width=48), TASK, device=CPU)
    for name in ("prefix_0_verbatim", "template_best_identifiers", "leak_at_4_identifiers"):
        assert fresh.measures[name].values.max() < 0.2


def test_the_mode_the_batch_size_and_the_seed(trained, plan, found) -> None:
    assert trained.training
    again = plan.attack(trained.eval(), TASK, device=CPU, batch_size=2)
    for name, measure in found.measures.items():
        tolerance = 0.01 if name == "exposure_extrapolated" else 1e-9
        np.testing.assert_allclose(again.measures[name].values, measure.values, atol=tolerance, err_msg=name)
    few = ExtractionOptions(parts=("samples",), samples=4, leak_at=(1,), temperature=3.0, max_new_tokens=32)
    values = notes(PEOPLE + OTHERS)
    one, same, other = (
        extraction_attack(trained, TASK, dialogue(), values, few, seed=seed, device=CPU).measures["leak_at_1_answer"]
        for seed in (0, 0, 1)
    )
    assert one.values.tolist() == same.values.tolist() != other.values.tolist()


def test_the_best_of_all_ways_is_the_best_of_each_record(found) -> None:
    ways = [found.measures[f"template_{name}_answer"].values for name in ("plain", "agrees", "chart")]
    assert found.measures["template_best_answer"].values.tolist() == np.max(ways, axis=0).tolist()


def test_no_secret_is_printed(found, plan) -> None:
    printed = (
        json.dumps(found.to_dict(), allow_nan=False) + repr(found) + repr(plan) + repr(plan.cuts) + repr(plan.asked)
    )
    for person in PEOPLE + OTHERS:
        assert not [secret for secret in person if secret in printed]


def test_prefixes_by_hand() -> None:
    """Tokens 3 4 5 6 | 9 10: the text is left once, at 9."""
    cuts = [Cut((2,), (3, 4, 5, 6, 9, 10)), Cut((2,), (3,)), Cut((), (3, 4))]
    right = likeliest(Successor(), TASK, dialogue(), cuts, device=CPU, batch_size=2)
    assert [row.astype(int).tolist() for row in right] == [[1, 1, 1, 1, 0, 1], [1], [0, 1]]
    assert [verbatim_run(right[0], given) for given in range(6)] == [4, 3, 2, 1, 0, 1]
    assert prefix_lengths(cuts, 0).tolist() == [0, 0, -1]  # nothing stands before the third
    assert prefix_lengths(cuts, 1).tolist() == [1, -1, 1]
    assert prefix_lengths(cuts, 0.5).tolist() == [3, 0, 1]
    made = prefix_measures(Successor(), dialogue(), cuts, right, (0, 1, 5), max_new_tokens=99, batch_size=2)
    np.testing.assert_allclose(made["prefix_0_verbatim"].values, [4 / 6, 1.0, np.nan])
    np.testing.assert_allclose(made["prefix_1_verbatim"].values, [3 / 5, np.nan, 1.0])
    np.testing.assert_allclose(made["prefix_5_extracted"].values, [1.0, np.nan, np.nan])
    short = prefix_measures(Successor(), dialogue(), cuts, right, (0,), max_new_tokens=4, batch_size=2)
    np.testing.assert_allclose(short["prefix_0_extracted"].values, [1.0, 1.0, np.nan])  # of the first four tokens
    assert "prefix_0_rouge" not in made  # it writes nothing


def test_what_one_pass_says_is_what_is_written(trained) -> None:
    """Word for word against real greedy decoding."""
    modality, values = dialogue(), notes(PEOPLE + OTHERS)
    cuts = [cut_answer(modality, value) for value in values]
    right = likeliest(trained, TASK, modality, cuts, device=CPU, batch_size=3)
    tokens = modality.collate([modality.prepare(value) for value in values])
    written, true = greedy_answers(trained, tokens)
    for n, cut in enumerate(cuts):
        same = (written[n, : len(cut.after)] == true[n, : len(cut.after)]).numpy()
        assert verbatim_run(right[n], 0) == (len(same) if same.all() else int(np.argmin(same)))
    assert matching_share(written, true)[:3].tolist() == [1.0] * 3


def test_plain_texts(trained) -> None:
    values = ["MRN 402931, born 1961-03-09. Lungs are clear and heart is normal."]
    options = ExtractionOptions(prefixes=(0, 5), templates=("chart",), samples=2, leak_at=(2,), opening_words=1,
                                max_new_tokens=16, alternatives=20)  # fmt: skip
    found = extraction_attack(trained, TASK, dialogue(), values, options, seed=0, device=CPU)
    assert np.isnan(found.measures["prefix_0_verbatim"].values).all()  # nothing stands before it
    assert found.measures["prefix_5_verbatim"].known.all()
    assert found.measures["template_chart_identifiers"].known.all()
    assert found.exposures is not None
    assert found.exposures.kind == ("mrn",)  # one day makes no range
    assert found.counts["identifiers without exposure: no format is known for its kind"] == 1


def test_models_that_write_nothing(plan) -> None:
    class Plain(nn.Module):
        def forward(self, input_ids, attention_mask):
            return ModelOutput(torch.zeros(*input_ids.shape, 97))

    with pytest.raises(ModelError, match="writes no text"):
        plan.attack(Plain(), TASK, device=CPU)
    options = ExtractionOptions(parts=("exposure", "prefix"), alternatives=20)
    found = extraction_attack(Plain(), TASK, dialogue(), notes(OTHERS), options, seed=0, device=CPU)
    assert found.measures["exposure"].values.tolist() == [0.0, 0.0]
    with pytest.raises(AuditError):
        plan_extraction(dialogue(), [], OPTIONS, seed=0)
    for wrong in (None, {**notes(OTHERS)[0], "identifiers": [{"text": "Jo Kowalski", "kind": "name"}]}):
        with pytest.raises(DataError, match="position 1") as caught:
            plan_extraction(dialogue(), [notes(OTHERS)[0], wrong], OPTIONS, seed=0)
        assert "Kowalski" not in str(caught.value)


def test_options_are_checked_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ExtractionOptions(
            parts=("exposures",), prefixes=(1.5, -1), samples=2, leak_at=(3,), temperature=0.0, top_p=2.0,
            kinds=("mnr",), alternatives=0, opening_words=0,
        )  # type: ignore[arg-type]  # fmt: skip
    assert len(caught.value.problems) == 9
    with pytest.raises(ConfigError, match="patern"):
        build_options(ExtractionOptions, {"formats": {"mrn": {"patern": "{6d}"}}}, where="extraction")
    made = build_options(
        ExtractionOptions,
        {
            "prefixes": [10, 0.5],
            "formats": {"mrn": {"pattern": "{6d}"}, "born": {"dates": ["1920-01-01", "2000-12-31"]}},
        },
        where="extraction",
    )
    assert made.prefixes == (10, 0.5)
    assert isinstance(made.prefixes[0], int)
    assert made.formats["born"].size == 29586
