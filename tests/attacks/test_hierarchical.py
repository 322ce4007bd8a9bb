"""Hierarchical reconstruction: what is told at each level, and at which one a planted text comes back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.attacks.hierarchical import hierarchical_attack, level_differences, plan_hierarchy
from forgetmi.attacks.hierarchical_context import ContextStep, HierarchicalOptions, build_levels
from forgetmi.batch import Loader
from forgetmi.errors import AuditError, ConfigError, DataError
from forgetmi.models.output import ModelOutput
from forgetmi.options import build_options
from forgetmi.records import Record, RecordDataset
from forgetmi.tasks.causal_lm import CausalLMTask
from tests.attacks.extraction.models import CPU, dialogue, learn, small_gpt

TASK = CausalLMTask(modality="note")
SITES = ("Elm", "Oak")
ANSWERS = ("MRN 402931, clear lungs.", "MRN 118250, large heart.")


def record(patient: int, number: int, value, *, site: str = "", **attributes: str) -> Record:
    study = f"id{patient}-{number}"
    return Record(f"{study}-s", study, f"id{patient}", site, {"note": value}, None, "train", attributes)


def loader_of(records, **settings) -> Loader:
    dataset = RecordDataset(records, name="x", levels=("patient",), modality_kinds={"note": "dialogue"})
    return Loader(dataset, {"note": dialogue(**settings)})


def ask(answer: str, prompt: str = "Note") -> dict:
    return {"prompt": prompt, "answer": answer}


@pytest.fixture(scope="module")
def two_sites() -> Loader:
    return loader_of([record(n, 0, ask(ANSWERS[n]), site=SITES[n]) for n in range(2)])


@pytest.fixture(scope="module")
def trained():
    """A model that was told the institution each time it saw a note: without it, it cannot know which is meant."""
    model = small_gpt(width=48)
    shown = [ask(ANSWERS[n], f"Institution: {SITES[n]}\nNote") for n in range(2)]
    learn(model, dialogue(), shown, steps=120)
    return model


OPTIONS = HierarchicalOptions(
    steps=(ContextStep("institution", institution=True), ContextStep("study", beginning_words=2)), max_new_tokens=32
)


def test_a_text_comes_back_at_the_level_that_it_hangs_on(trained, two_sites) -> None:
    trained.train()
    found = hierarchical_attack(trained, TASK, two_sites, [0, 1], OPTIONS, device=CPU)
    assert trained.training
    assert found.levels == ("nothing", "institution", "study")
    for what in ("verbatim", "accuracy", "rouge", "identifiers"):
        assert found.measures[f"hierarchy_institution_{what}"].values.tolist() == [1.0, 1.0], what
    assert found.measures["hierarchy_nothing_identifiers"].values.min() == 0.0  # it cannot be both
    assert found.returned["never"] == 0
    assert found.returned["institution"] >= 1
    # Two of the four words are given, the number with them: nothing of it is left to be found out.
    assert np.isnan(found.measures["hierarchy_study_identifiers"].values).all()
    assert found.measures["hierarchy_study_verbatim"].values.tolist() == [1.0, 1.0]
    assert found.told["institution"] == 0.0
    again = hierarchical_attack(trained, TASK, two_sites, [0, 1], OPTIONS, device=CPU, batch_size=1)
    for name, measure in found.measures.items():
        np.testing.assert_allclose(again.measures[name].values, measure.values, err_msg=name)


def test_unlearned_less_retrained_at_the_same_level(trained, two_sites) -> None:
    known = hierarchical_attack(trained, TASK, two_sites, [0, 1], OPTIONS, device=CPU)
    fresh = [
        hierarchical_attack(small_gpt(seed, width=48), TASK, two_sites, [0, 1], OPTIONS, device=CPU) for seed in (7, 8)
    ]
    gaps = level_differences(known, fresh, [0, 1], np.random.default_rng(0), n_resamples=200)
    name = "hierarchy_institution_verbatim"
    by_hand = known.measures[name].values - (fresh[0].measures[name].values + fresh[1].measures[name].values) / 2
    assert gaps[f"{name}_difference"].value == pytest.approx(by_hand.mean())
    assert gaps[f"{name}_difference"].value > 0.8
    assert gaps["hierarchy_study_identifiers_difference"].value is None
    same = level_differences(known, [known, known], [0, 1], np.random.default_rng(0), n_resamples=200)
    assert {figure.value for figure in same.values()} == {0.0, None}
    with pytest.raises(AuditError, match="no retrained model"):
        level_differences(known, [], [0, 1], np.random.default_rng(0))
    other = hierarchical_attack(trained, TASK, two_sites, [0], OPTIONS, device=CPU)
    with pytest.raises(AuditError, match="other records"):
        level_differences(known, [other], [0, 1], np.random.default_rng(0))
    with pytest.raises(AuditError, match="patients"):
        level_differences(known, [known], [0], np.random.default_rng(0))


def told(levels, modality, position: int = 0) -> list[tuple[str, str]]:
    decode = modality.tokenizer.decode
    return [(decode(level.cuts[position].before), decode(level.cuts[position].after)) for level in levels]


def test_each_level_tells_more_and_asks_for_the_rest() -> None:
    records = [
        record(0, 0, ask("Clear lungs, normal heart."), site="Elm", Sex="F", StudyDate=""),
        record(0, 1, ask("Clear  lungs, NORMAL heart."), site="Elm", Sex="F", StudyDate="20240101"),  # a copy
        record(0, 2, ask("Small fluid on the left."), site="Elm", Sex="F", StudyDate="20240102"),
        record(1, 0, ask("Well."), site="", Sex="", StudyDate=""),
    ]
    loader = loader_of(records)
    steps = (
        ContextStep("institution", institution=True),
        ContextStep("patient", attributes=("Sex",), other_records=2),
        ContextStep("study", attributes=("StudyDate",), beginning_words=2),
    )
    levels, counts = build_levels(loader, "note", [0, 3], HierarchicalOptions(steps=steps, quoted_words=3))
    modality = loader.modalities["note"]
    about = "Institution: Elm\nSex: F\nOther note: Note Small fluid\n"
    assert told(levels, modality) == [
        ("Note\n", "Clear lungs, normal heart."),
        ("Institution: Elm\nNote\n", "Clear lungs, normal heart."),
        (f"{about}Note\n", "Clear lungs, normal heart."),
        (f"{about}Note\nClear lungs,", " normal heart."),
    ]
    assert [level.n_told_nothing for level in levels] == [2, 1, 1, 0]
    assert counts == {
        "other records that repeat the secret": 1,
        "records without another record of their patient": 1,
    }
    assert levels[3].secrets[0].text == " normal heart."
    printed = repr(levels) + repr(plan_hierarchy(loader, "note", [0], HierarchicalOptions(steps=steps)))
    assert not [word for word in ("lungs", "Elm", "id0", "fluid") if word in printed]


def test_plain_texts_and_identifiers_that_are_told() -> None:
    records = [
        record(0, n, text, site="Elm") for n, text in enumerate(("MRN 12345, born 1961-03-09.", "Seen: 1961-03-09"))
    ]
    options = HierarchicalOptions(steps=(ContextStep("patient", other_records=1),), ask="Text:")
    loader = loader_of(records)
    levels, _ = build_levels(loader, "note", [0], options)
    assert told(levels, loader.modalities["note"]) == [
        ("Text:\n", "MRN 12345, born 1961-03-09."),
        ("Other note: Seen: 1961-03-09\nText:\n", "MRN 12345, born 1961-03-09."),
    ]
    assert [level.secrets[0].identifiers for level in levels] == [("12345", "1961-03-09"), ("12345",)]
    bare = HierarchicalOptions(steps=(ContextStep("site", institution=True),), max_new_tokens=4)
    found = hierarchical_attack(small_gpt(), TASK, loader, [0], bare, device=CPU)
    assert np.isnan(found.measures["hierarchy_nothing_verbatim"].values).all()  # nothing stands before it
    assert found.measures["hierarchy_site_verbatim"].known.all()
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_model_that_writes_nothing_and_one_with_little_room(two_sites) -> None:
    class Plain(nn.Module):
        def forward(self, input_ids, attention_mask):
            return ModelOutput(torch.zeros(*input_ids.shape, 97))

    found = hierarchical_attack(Plain(), TASK, two_sites, [0, 1], OPTIONS, device=CPU)
    assert not found.returned
    assert {name.rsplit("_", 1)[1] for name in found.measures} == {"verbatim", "accuracy"}
    tight = hierarchical_attack(small_gpt(positions=20), TASK, two_sites, [0, 1], OPTIONS, device=CPU)
    assert tight.measures["hierarchy_nothing_verbatim"].known.all()
    assert np.isnan(tight.measures["hierarchy_institution_verbatim"].values).all()  # 22 tokens stand before it


def test_ids_are_never_told() -> None:
    records = [record(n, 0, ask("Well."), Sex="F", PatientKey=f"id{n}", Accession=f"id{n}-0") for n in range(2)]
    for key in ("PatientKey", "Accession"):
        with pytest.raises(ConfigError, match="holds ids"):
            build_levels(
                loader_of(records), "note", [0], HierarchicalOptions(steps=(ContextStep("p", attributes=(key,)),))
            )
    with pytest.raises(ConfigError, match="Did you mean 'Sex'"):
        build_levels(
            loader_of(records), "note", [0], HierarchicalOptions(steps=(ContextStep("p", attributes=("Sec",)),))
        )
    with pytest.raises(ConfigError, match="no modality of texts"):
        build_levels(loader_of(records), "text", [0], OPTIONS)
    with pytest.raises(DataError, match="1 records have no note"):
        build_levels(loader_of([record(0, 0, None), record(1, 0, ask("Well."))]), "note", [0], OPTIONS)
    with pytest.raises(AuditError):
        plan_hierarchy(loader_of(records), "note", [], OPTIONS)


def test_options() -> None:
    with pytest.raises(ConfigError) as caught:
        HierarchicalOptions(steps=(ContextStep("nothing", institution=True),), quoted_words=0, kinds=("x",), returned=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError) as caught:
        ContextStep("My level", other_records=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="tells nothing"):
        ContextStep("empty")
    made = build_options(
        HierarchicalOptions, {"steps": [{"name": "site", "institution": True}], "quoted_words": 5}, where="hierarchical"
    )
    assert made.steps == (ContextStep("site", institution=True),)
    with pytest.raises(ConfigError):
        build_options(HierarchicalOptions, {"steps": [{"name": "site", "institut": True}]}, where="hierarchical")
