"""Exposure: closed forms on models that are tables, planted identifiers, and what must change nothing."""

from __future__ import annotations

import copy
import json
import zlib

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from forgetmi.attacks.extraction.contests import build_contests
from forgetmi.attacks.extraction.exposure import chance_bits, exposures, rank_of
from forgetmi.attacks.extraction.identifiers import IdentifierFormat, identifiers_of
from forgetmi.attacks.extraction.membership import compare_exposures
from forgetmi.attacks.extraction.tails import tail_nll
from forgetmi.errors import AuditError, ModelError
from tests.attacks.extraction.models import CPU, LETTERS, Table, dialogue, learn, small_gpt

TWO = {"code": IdentifierFormat(pattern="{2d}")}


def record(name: str, code: str) -> dict:
    return {"prompt": name, "answer": f"No. {code}.", "identifiers": [{"text": code, "kind": "code"}]}


def contests_of(values, formats=TWO, *, modality=None, count=1000, seed=0):
    spans = [identifiers_of(value) for value in values]
    return build_contests(modality or dialogue(), values, spans, formats, count=count, seed=seed)


def halves(text: str) -> list[float]:
    """p(digit d) falls by half with each digit, whatever stands before."""
    return [-0.6931471805599453 * int(letter) if letter.isdigit() else 0.0 for letter in "\0" + LETTERS]


def test_rank_and_exposure_by_hand() -> None:
    # 00 has the digit sum 0; 10 ties with 01, and 00 is likelier; 99 is the least likely of all.
    values = [record("a", "00"), record("b", "10"), record("c", "99")]
    contests, without = contests_of(values)
    assert not without
    found = exposures(Table(halves), contests, 3, device=CPU)
    assert found.rank.tolist() == [1, 3, 100]
    assert found.bits == pytest.approx([np.log2(100), np.log2(100 / 3), 0.0])
    assert found.extrapolated == pytest.approx(found.bits)  # all of R was scored
    assert found.first.tolist() == [1.0, 0.0, 0.0]


def test_a_model_that_makes_no_difference_exposes_nobody() -> None:
    contests, _ = contests_of([record("a", "00"), record("b", "57")])
    assert exposures(Table(lambda text: [0.0] * 97), contests, 2, device=CPU).bits.tolist() == [0.0, 0.0]


def test_chance_is_the_mean_over_everybody_who_could_be_meant() -> None:
    """A model that knows nobody but has its own taste: over all of R, ranks are 1 to 100."""

    def taste(text: str) -> list[float]:
        return np.random.default_rng(zlib.crc32(text[-4:].encode())).normal(size=97).tolist()

    values = [record("a", str(n)) for n in range(10)]
    contests, _ = contests_of(values, {"code": IdentifierFormat(pattern="{1d}")})
    found = exposures(Table(taste), contests, 10, device=CPU)
    assert sorted(found.rank.tolist()) == list(range(1, 11))
    by_hand = np.mean([np.log2(10 / rank) for rank in range(1, 11)])
    assert chance_bits(np.array([10]))[0] == pytest.approx(by_hand)
    assert found.bits.mean() == pytest.approx(by_hand)
    assert chance_bits(np.array([10**9]))[0] == pytest.approx(np.log2(np.e), abs=1e-6)


def test_drawn_alternatives_take_the_place_of_all() -> None:
    contests, _ = contests_of([record("a", "00")], count=20)
    (contest,) = contests
    assert (len(contest.tails), contest.size, contest.exact) == (21, 100, False)
    assert exposures(Table(halves), contests, 1, device=CPU).bits.tolist() == [np.log2(21)]


@pytest.mark.parametrize(("shape", "bits"), [(4.0, 8.0), (-3.0, 12.0), (0.0, 5.0)])
def test_a_skew_normal_law_is_extrapolated(shape: float, bits: float) -> None:
    law = stats.skewnorm(shape, 30.0, 5.0)
    others = law.rvs(4000, random_state=np.random.default_rng(2))
    rank, found, distance = rank_of(np.r_[law.ppf(2.0**-bits), others], 10**6, exact=False)
    assert found == pytest.approx(bits, abs=0.1 * bits)
    assert distance < 0.03
    assert rank == 1 + (others <= law.ppf(2.0**-bits) + 1e-4).sum()


def test_nothing_is_more_exposed_than_its_format_allows() -> None:
    nll = np.r_[0.0, np.random.default_rng(0).normal(60.0, 1.0, size=200)]
    assert rank_of(nll, 10**6, exact=False)[:2] == (1, pytest.approx(np.log2(10**6)))
    assert np.isnan(rank_of(np.zeros(101), 10**6, exact=False)[1])  # no law fits what does not vary


PEOPLE = (("Ann", "402931", "1961-03-09"), ("Bob", "118250", "1974-11-30"), ("Cyd", "975316", "1938-07-17"))
OTHERS = (("Dov", "660719", "1950-01-02"), ("Eve", "280334", "1981-05-23"), ("Fay", "519487", "1969-10-08"))


def notes(people) -> list[dict]:
    return [{"prompt": f"Patient {n}", "answer": f"MRN {m}, born {d}."} for n, m, d in people]


@pytest.fixture(scope="module")
def trained():
    """A model that was shown three people's notes many times."""
    model = small_gpt(width=48)
    learn(model, dialogue(), notes(PEOPLE), steps=140)
    return model


def test_planted_identifiers_are_exposed_and_others_are_not(trained) -> None:
    contests, without = contests_of(notes(PEOPLE + OTHERS), {}, count=300)
    assert not without
    assert {c.kind for c in contests} == {"mrn", "date"}
    found = exposures(trained, contests, 6, device=CPU)
    assert found.rank[:6].tolist() == [1] * 6
    assert found.extrapolated[:6].min() > 12
    measures = found.measures()
    assert measures["exposure"].values[:3] == pytest.approx([np.log2(301)] * 3)
    assert measures["exposure"].values[3:].max() < 5
    assert measures["identifier_first"].values.tolist() == [1, 1, 1, 0, 0, 0]
    fresh = exposures(small_gpt(3, width=48), contests, 6, device=CPU)
    assert fresh.measures()["exposure"].values[:3].max() < 5
    compared = compare_exposures(found, np.arange(6) < 3, np.arange(6), np.random.default_rng(0), n_permutations=2000)
    assert compared.auc.value == 1.0
    assert compared.p_value == pytest.approx(1 / 20, abs=0.02)  # one choice of 3 of 6 people in 20
    assert compared.members.value > compared.others.value + 4


def test_a_persons_records_are_one_person() -> None:
    values = [
        record("a", "00"),
        record("a2", "00"),
        record("b", "99"),
        record("c", "98"),
        {"prompt": "", "answer": "-"},
    ]
    contests, _ = contests_of(values)
    found = exposures(Table(halves), contests, 5, device=CPU)
    compared = compare_exposures(
        found, [True, True, False, False, True], [7, 7, 8, 9, 7], np.random.default_rng(0), n_resamples=200
    )
    assert compared.patient.tolist() == [7, 8, 9]
    assert compared.member.tolist() == [True, False, False]
    assert (compared.auc.counts["n_members"], compared.auc.counts["n_others"]) == (1, 2)
    for wrong in ([True] * 5, [False] * 5, [True, False, False, False, True]):
        with pytest.raises(AuditError):
            compare_exposures(found, wrong, [7, 7, 8, 9, 7], np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_read_once_scores_as_what_is_read_whole(kind: str) -> None:
    class Whole(nn.Module):
        def __init__(self, lm) -> None:
            super().__init__()
            self.lm = lm

        def forward(self, input_ids, attention_mask):
            return self.lm(input_ids=input_ids, attention_mask=attention_mask)

    model = small_gpt(5, kind=kind).train()
    tails = [(1, 2, 3), (4,), (5, 6, 7, 8, 9), (1, 2)]
    for shared in ([11], [11, 12, 13, 14]):
        scored = tail_nll(model, shared, tails, device=CPU)
        whole = tail_nll(Whole(model.lm), shared, tails, device=CPU)
        assert scored == pytest.approx(whole, abs=1e-5)
        for n, tail in enumerate(tails):
            ids = torch.tensor([[*shared, *tail]])
            with torch.no_grad():
                log_p = model.eval()(ids, torch.ones_like(ids)).logits.log_softmax(-1)[0]
            steps = range(len(shared) - 1, ids.shape[1] - 1)
            assert scored[n] == pytest.approx(-sum(float(log_p[t, ids[0, t + 1]]) for t in steps), abs=1e-5)
        model.train()
    assert model.training


def test_batches_and_seeds(trained) -> None:
    values = notes(PEOPLE + OTHERS)
    contests, _ = contests_of(values, {}, count=50)
    assert contests == contests_of(values, {}, count=50)[0]
    assert contests != contests_of(values, {}, count=50, seed=1)[0]
    contests = contests[:3] + contests[-3:]
    once = exposures(trained, contests, 6, device=CPU, batch_size=1)
    again = exposures(trained, contests, 6, device=CPU, batch_size=7)
    assert again.rank.tolist() == once.rank.tolist()
    assert again.extrapolated == pytest.approx(once.extrapolated, abs=1e-3)
    few = tail_nll(trained, contests[0].shared, contests[0].tails, device=CPU, max_logits=1)
    assert few == pytest.approx(tail_nll(trained, contests[0].shared, contests[0].tails, device=CPU), abs=1e-4)


def test_what_has_no_contest_is_counted() -> None:
    values = [
        {"prompt": "p", "answer": "Jo Ko", "identifiers": [{"text": "Jo Ko", "kind": "name"}]},
        {"prompt": "p", "answer": "mail a@b.org, 3/9/1961"},
        "004312",
        {"prompt": "p", "answer": "one day only: 1961-03-09"},
    ]
    contests, without = contests_of(values, {})
    assert not contests
    assert without == {"no format is known for its kind": 4}
    value = {"prompt": "p" * 30, "answer": "MRN 004312."}
    assert contests_of([value], {}, modality=dialogue(max_length=35))[1] == {"it stands beyond max_length": 1}
    alone = {"prompt": "p", "answer": "12", "identifiers": [{"text": "12", "kind": "code"}]}
    assert contests_of([alone, "Record no. 12345"], {})[1] == {}
    text = contests_of(["MRN: 12345 and MRN 54321"], {})[0]
    assert len(text) == 2
    with pytest.raises(AuditError, match="no identifier"):
        exposures(small_gpt(), [], 1, device=CPU)


def test_days_compete_with_the_days_that_these_records_span() -> None:
    values = [{"prompt": "p", "answer": f"Born {day}."} for day in ("2000-02-27", "2000-03-02", "29.02.2000")]
    contests, without = contests_of(values, {})
    tail = "27", "28", "29", "01", "02"
    modality = dialogue()
    (first, last) = contests
    assert {modality.tokenizer.decode(list(text))[-2:] for text in first.tails} == set(tail)
    assert (first.size, first.exact, last.size) == (5, True, 5)
    assert without == {"no format is known for its kind": 1}  # written otherwise, and alone


def test_names_of_different_lengths_compete_whole() -> None:
    formats = {"name": IdentifierFormat(names=("Ann", "Anna", "Bob", "Annabel"))}
    value = {"prompt": "p", "answer": "It is Anna", "identifiers": [{"text": "Anna", "kind": "name"}]}
    ((contest,), _) = contests_of([value], formats)
    assert sorted(map(len, contest.tails)) == [3, 3, 4, 7]
    ((alike,), _) = contests_of([value], {"name": IdentifierFormat(names=("Anna", "Annabel"))})
    assert sorted(map(len, alike.tails)) == [1, 4]  # each keeps a token


def test_a_broken_model_is_called_broken() -> None:
    model = copy.deepcopy(small_gpt())
    with torch.no_grad():
        model.lm.transformer.ln_f.weight.fill_(float("nan"))
    contests, _ = contests_of([record("a", "00")])
    with pytest.raises(ModelError, match="not finite"):
        exposures(model, contests, 1, device=CPU)


def test_no_secret_is_printed(trained) -> None:
    contests, _ = contests_of(notes(PEOPLE), {}, count=40)
    found = exposures(trained, contests, 3, device=CPU)
    printed = repr(contests) + repr(found) + json.dumps(found.to_dict(), allow_nan=False) + repr(found.measures())
    for person in PEOPLE:
        assert not [secret for secret in person if secret in printed]
    for contest in contests:  # nor as tokens
        assert str(list(contest.tails[0]))[1:-1] not in printed
