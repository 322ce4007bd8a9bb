"""Who is in which shadow model, and the gathering of what they leave behind."""

from __future__ import annotations

import numpy as np
import pytest

from forgetmi.errors import AuditError, ConfigError
from forgetmi.training.shadows import ShadowScores, gather, score_file, shadow_design, shadow_seed

PATIENTS = [f"p{n:03d}" for n in range(101)]


@pytest.mark.parametrize("n_shadows", [2, 8, 64])
@pytest.mark.parametrize("n_patients", [2, 3, 101])
def test_every_patient_is_in_exactly_half_and_no_shadow_has_nobody_or_everybody(n_shadows, n_patients):
    design = shadow_design(PATIENTS[:n_patients], n_shadows, seed=5)
    assert design.shape == (n_shadows, n_patients)
    assert design.dtype == np.bool_
    assert (design.sum(axis=0) == n_shadows // 2).all()
    assert (design[::2] == ~design[1::2]).all()
    assert ((design.sum(axis=1) > 0) & (design.sum(axis=1) < n_patients)).all()


def test_the_coins_are_fair_and_independent():
    design = shadow_design(PATIENTS, 2000, seed=0)[::2].astype(float)  # 1000 pairs x 101 patients
    assert abs(design.mean() - 0.5) < 4 * 0.5 / np.sqrt(design.size)
    shares = design.mean(axis=1)  # of patients in a shadow: binomial, not exactly half
    assert abs(shares.std() / np.sqrt(0.25 / 101) - 1) < 0.1
    between = np.corrcoef(design.T)[np.triu_indices(101, 1)]  # patients
    assert abs(between.mean()) < 4 / np.sqrt(1000 * len(between))
    assert abs(between.std() * np.sqrt(1000) - 1) < 0.1


def test_a_patients_shadows_do_not_depend_on_the_order():
    design = shadow_design(PATIENTS, 16, seed=1)
    order = np.random.default_rng(0).permutation(len(PATIENTS))
    assert np.array_equal(shadow_design([PATIENTS[i] for i in order], 16, seed=1), design[:, order])


def test_the_seed_draws_and_more_shadows_keep_the_first_ones():
    first = shadow_design(PATIENTS, 8, seed=1)
    assert np.array_equal(first, shadow_design(PATIENTS, 8, seed=1))
    assert not np.array_equal(first, shadow_design(PATIENTS, 8, seed=2))
    assert np.array_equal(first, shadow_design(PATIENTS, 16, seed=1)[:8])
    seeds = {shadow_seed(seed, index) for seed in (0, 1) for index in range(50)}
    assert len(seeds) == 100


@pytest.mark.parametrize(
    ("patients", "count", "what"),
    [(PATIENTS, 3, "even"), (PATIENTS, -2, "even"), (PATIENTS, 0, "no shadow"), (["a"], 4, "at least 2"),
     (["a", "b", "a"], 4, "1 target patients stand there more than once")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(patients, count, what):
    with pytest.raises(ConfigError, match=what):
        shadow_design(patients, count, seed=0)


def _scores(index, *, mark="m", n=3, version="1"):
    nll = np.arange(n, dtype=np.float32) + 10 * index
    signals = {"forget": {"nll": nll, "logits": np.stack([nll, -nll], axis=1)}, "test": {"nll": nll[:2]}}
    seen = {"forget": np.arange(n) % 2 == index % 2, "test": np.array([True, False])}
    return ShadowScores(index, mark, signals, seen, {"torch": version}, 1.5)


def test_what_is_written_is_read_and_gathered(tmp_path):
    for index in range(4):
        _scores(index).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"shadow-{index:04d}.npz" for index in range(4)]
    found = gather(tmp_path, 4, "m", command="make")
    assert set(found) == {"forget", "test"}
    assert found["forget"]["logits"].shape == (4, 3, 2)
    assert found["forget"]["nll"].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]]
    assert found["forget"]["nll"].dtype == np.float32
    assert found["forget"]["seen"].tolist() == [[True, False, True], [False, True, False]] * 2
    again = ShadowScores.read(tmp_path, 2)
    assert (again.index, again.mark, again.made_with, again.seconds) == (2, "m", {"torch": "1"}, 1.5)


def test_missing_and_damaged_ones_are_named_with_the_command(tmp_path):
    for index in (0, 1, 3):
        _scores(index).write(tmp_path)
    file = score_file(tmp_path, 1)
    file.write_bytes(file.read_bytes()[:-40])
    assert ShadowScores.read(tmp_path, 1) is None
    with pytest.raises(AuditError, match="2 of 4 shadow models are missing: 1, 2") as caught:
        gather(tmp_path, 4, "m", command="forgetmi shadows --run runs/x")
    assert "forgetmi shadows --run runs/x" in caught.value.fix


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ({"mark": "other"}, "1 of 4 shadow models are of other settings, data or code: 2"),
        ({"version": "2"}, "torch 1: 0, 1, 3; torch 2: 2"),
        ({"n": 4}, "scores of other records than the first one: 2"),
    ],
)
def test_mixed_ones_are_refused_and_named(tmp_path, odd, what):
    for index in range(4):
        _scores(index, **(odd if index == 2 else {})).write(tmp_path)
    with pytest.raises(AuditError, match=what):
        gather(tmp_path, 4, "m", command="make")


def test_a_file_under_another_number_is_refused(tmp_path):
    for index in range(2):
        _scores(index).write(tmp_path)
    score_file(tmp_path, 1).write_bytes(score_file(tmp_path, 0).read_bytes())  # one model counted twice
    with pytest.raises(AuditError, match="of other settings, data or code: 1"):
        gather(tmp_path, 2, "m", command="make")
