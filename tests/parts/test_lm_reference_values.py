"""Losses on fixed logits against values computed by other people's code; where that is wrong, why, and what is right.

The right values are computed here with numpy, a token at a time, or in closed form, never by the functions under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from forgetmi.parts.objectives.ascent import ascent_loss, forget_retain_loss
from forgetmi.parts.objectives.distil import ce_u_tokens, kl_loss, undial_tokens
from forgetmi.parts.objectives.npo import npo_loss
from forgetmi.parts.objectives.preference import dpo_loss, simnpo_loss
from forgetmi.parts.objectives.primal_dual import dual_step, flatness_tokens, lagrangian
from forgetmi.parts.objectives.reweighted import satimp_weights, wga_weights
from forgetmi.parts.objectives.rmu import activation_loss
from forgetmi.parts.objectives.sequence import after_first, sequence_means, sequence_sums, token_mean

FOLDER = Path(__file__).parents[3] / "shared" / "reference_values" / "open_unlearning"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of reference values is not here")
STREAMS = ("forget", "retain", "alternate")
LOSS, GRADIENT = 1e-9, 1e-7  # relative; what is asked for is 1e-5 and 1e-4


class Fixed:
    """Logits that stand for a model's, and what the losses are made of."""

    def __init__(self) -> None:
        stored = load_file(FOLDER / "inputs_fixed_logits.safetensors")
        self.stored = stored
        self.logits = {name: stored[f"{name}.logits"].requires_grad_() for name in STREAMS}
        self.reference = {name: stored[f"{name}.ref_logits"] for name in STREAMS}
        self.labels = {name: stored[f"{name}.labels"] for name in STREAMS}
        self.mask = {name: labels[:, 1:] != -100 for name, labels in self.labels.items()}

    def nll(self, name, which="logits"):
        logits, labels = getattr(self, which)[name][:, :-1], self.labels[name][:, 1:]
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")

    def sums(self, name, which="logits"):
        return sequence_sums(self.nll(name, which), self.mask[name])

    def mean(self, name):
        return token_mean(self.nll(name), self.mask[name])

    def gradient(self, loss, name):
        (found,) = torch.autograd.grad(loss, self.logits[name], retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.logits[name]) if found is None else found


@pytest.fixture
def fixed():
    return Fixed()


@pytest.fixture(scope="module")
def values():
    return json.loads((FOLDER / "losses_fixed_logits.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gradients():
    return load_file(FOLDER / "losses_fixed_logits_grads.safetensors")


def close(found, expected, tolerance):
    """Each entry relative to itself, or (where the sum of terms cancels) to a millionth of the largest."""
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-6 * float(expected.abs().max()))


def ascent(fixed, weights=None):
    return ascent_loss(fixed.nll("forget"), fixed.mask["forget"], weights)


def npo(fixed, beta):
    return npo_loss(fixed.sums("forget"), fixed.sums("forget", "reference"), beta)


def idk(fixed, beta):
    chosen, rejected = ((fixed.sums(name), fixed.sums(name, "reference")) for name in ("alternate", "forget"))
    return dpo_loss(*chosen, *rejected, beta, "npo")


def simnpo(fixed, beta, delta):
    return simnpo_loss(sequence_means(fixed.nll("forget"), fixed.mask["forget"]), beta, beta * delta)


def ce_u(fixed, skipped):
    rows = ce_u_tokens(fixed.logits["forget"][:, :-1], fixed.labels["forget"][:, 1:])
    return token_mean(rows, after_first(fixed.mask["forget"], skipped))


def wga(fixed, beta):
    return ascent(fixed, wga_weights(fixed.nll("forget"), beta))


def satimp(fixed, beta1, beta2):
    return ascent(fixed, satimp_weights(fixed.nll("forget"), beta1, beta2))


SAME = {
    "GradAscent": (ascent, 1, 0),
    "GradDiff_NLL": (ascent, 1, 1),
    "GradDiff_gamma0.3_alpha2": (ascent, 0.3, 2),
    **{f"NPO_beta{b}": (lambda fixed, b=b: npo(fixed, b), 1, 1) for b in (0.05, 0.1, 1.0)},
    **{f"NPO_beta{b}_forget_only": (lambda fixed, b=b: npo(fixed, b), 1, 0) for b in (0.05, 0.1, 1.0)},
    **{f"DPO_beta{b}_forget_only": (lambda fixed, b=b: idk(fixed, b), 1, 0) for b in (0.05, 0.1, 1.0)},
    "SimNPO_default": (lambda fixed: simnpo(fixed, 4.5, 0.0), 0.125, 1),
    "SimNPO_beta2.5_delta0.5_forget_only": (lambda fixed: simnpo(fixed, 2.5, 0.5), 1, 0),
    "CEU_ignore1": (lambda fixed: ce_u(fixed, 1), 1, 0),
    "CEU_ignore0": (lambda fixed: ce_u(fixed, 0), 1, 0),
    "WGA_beta1": (lambda fixed: wga(fixed, 1.0), 1, 1),
    "WGA_beta0.5_forget_only": (lambda fixed: wga(fixed, 0.5), 1, 0),
    "SatImp_default": (lambda fixed: satimp(fixed, 5.0, 1.0), 0.1, 1),
    "SatImp_b1_2_b2_0.5_forget_only": (lambda fixed: satimp(fixed, 2.0, 0.5), 1, 0),
}
DIFFERENT = {"GradDiff_KL", "NPO_beta0.1_KL", "UNDIAL_beta10", "UNDIAL_beta3_alpha1"}
DIFFERENT |= {"PDU_no_dual", "PDU_primal_dual_step", "PDU_warmup"}
DIFFERENT |= {"RMU_forget_activation_batch4", "RMU_retain_activation_batch4", "kl_retain"}


def test_no_value_is_left_out(values):
    context = {"meta", "how", *(f"batch_nll_sum_per_row_{name}" for name in STREAMS)}
    assert set(values) - context == set(SAME) | DIFFERENT


@pytest.mark.parametrize("stream", STREAMS)
def test_sums_and_means_of_sequences(fixed, values, stream):
    expected = values[f"batch_nll_sum_per_row_{stream}"]
    assert fixed.sums(stream).tolist() == pytest.approx(expected["model"], rel=LOSS)
    assert fixed.sums(stream, "reference").tolist() == pytest.approx(expected["ref"], rel=LOSS)
    assert fixed.mask[stream].sum(dim=1).tolist() == expected["labelled_tokens"]
    assert fixed.mean(stream).item() == pytest.approx(expected["hf_mean_loss"], rel=LOSS)


@pytest.mark.parametrize("case", SAME)
def test_losses_of_the_same_definition_agree_in_value_and_gradient(case, fixed, values, gradients):
    forget, gamma, alpha = SAME[case]
    loss = forget_retain_loss(forget(fixed), fixed.mean("retain"), gamma=gamma, alpha=alpha)
    assert loss.item() == pytest.approx(values[case]["loss"], rel=LOSS)
    checked = [name for name in STREAMS if f"{case}|{name}" in gradients]
    assert "forget" in checked
    for name in checked:
        assert close(fixed.gradient(loss, name), gradients[f"{case}|{name}"], GRADIENT)


def test_dpo_itself_has_no_factor_two_over_beta(fixed, values):
    """Published unlearning code gives DPO the factor of NPO; the paper's eq. 7 is -log sigmoid alone."""
    terms = (values[f"batch_nll_sum_per_row_{name}"] for name in ("alternate", "forget"))
    chosen, rejected = (np.array(term["ref"]) - np.array(term["model"]) for term in terms)
    by_hand = np.log1p(np.exp(-0.1 * (chosen - rejected))).mean()
    found = dpo_loss(
        fixed.sums("alternate"),
        fixed.sums("alternate", "reference"),
        fixed.sums("forget"),
        fixed.sums("forget", "reference"),
        0.1,
    )
    assert found.item() == pytest.approx(by_hand, rel=LOSS)
    assert 2 / 0.1 * by_hand == pytest.approx(values["DPO_beta0.1_forget_only"]["loss"], rel=LOSS)


def rows_of(fixed, name):
    """(logits, reference, label) of each answer token as numpy: logits at t - 1 predict the token at t."""
    logits, reference = (getattr(fixed, which)[name].detach().numpy() for which in ("logits", "reference"))
    labels = fixed.labels[name].numpy()
    places = [(b, t) for b, t in zip(*np.nonzero(labels != -100), strict=True) if t > 0]
    return [(logits[b, t - 1], reference[b, t - 1], labels[b, t]) for b, t in places]


def log_softmax(z):
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


@pytest.mark.parametrize(
    ("case", "forget"),
    [("kl_retain", None), ("GradDiff_KL", ascent), ("NPO_beta0.1_KL", lambda fixed: npo(fixed, 0.1))],
)
def test_kl_counts_answer_tokens_and_the_published_mean_counts_prompt_and_padding(
    case, forget, fixed, values, gradients
):
    logits, reference = fixed.logits["retain"], fixed.reference["retain"]
    everywhere = torch.ones(logits.shape[:2], dtype=torch.bool)
    kl = kl_loss(logits, reference, everywhere)  # their mask: the whole of the difference
    if forget is None:
        assert kl.item() == pytest.approx(values[case], rel=LOSS)
    else:
        loss = forget(fixed) + kl
        assert loss.item() == pytest.approx(values[case]["loss"], rel=LOSS)
        for name in ("forget", "retain"):
            assert close(fixed.gradient(loss, name), gradients[f"{case}|{name}"], GRADIENT)
    right = kl_loss(logits[:, :-1], reference[:, :-1], fixed.mask["retain"])
    pairs = [(log_softmax(q), log_softmax(p)) for p, q, _ in rows_of(fixed, "retain")]
    by_hand = np.mean([(np.exp(q) * (q - p)).sum() for q, p in pairs])
    assert right.item() == pytest.approx(by_hand, rel=LOSS)
    assert abs(right.item() / kl.item() - 1) > 0.001


@pytest.mark.parametrize(("case", "beta", "alpha"), [("UNDIAL_beta10", 10.0, 0.0), ("UNDIAL_beta3_alpha1", 3.0, 1.0)])
def test_undial_counts_answer_tokens_and_published_code_lowers_a_token_of_the_prompt(
    case, beta, alpha, fixed, values, gradients
):
    """There the label -100 indexes the vocabulary from its end, and prompt and padding are in the mean."""
    logits, reference = fixed.logits["forget"][:, :-1], fixed.reference["forget"][:, :-1]
    labels, mask = fixed.labels["forget"][:, 1:], fixed.mask["forget"]
    theirs = torch.where(mask, labels, logits.shape[-1] - 100)
    term = token_mean(undial_tokens(logits, reference, theirs, beta), torch.ones_like(mask))
    loss = forget_retain_loss(term, fixed.mean("retain"), alpha=alpha)
    assert loss.item() == pytest.approx(values[case]["loss"], rel=LOSS)
    for name in ("forget", "retain"):
        assert close(fixed.gradient(loss, name), gradients[f"{case}|{name}"], GRADIENT)
    right = token_mean(undial_tokens(logits, reference, labels, beta), mask)
    by_hand = []
    for p, q, label in rows_of(fixed, "forget"):
        target = q - beta * (np.arange(len(q)) == label)
        by_hand.append(-(np.exp(log_softmax(target)) * log_softmax(p)).sum())
    assert right.item() == pytest.approx(np.mean(by_hand), rel=LOSS)
    assert abs(right.item() / term.item() - 1) > 0.001


@pytest.mark.parametrize("case", ["PDU_no_dual", "PDU_primal_dual_step", "PDU_warmup"])
def test_pdu_flattens_the_logits_that_predict_a_token_and_published_code_those_after_it(case, fixed, values, gradients):
    logits, labels = fixed.logits["forget"], fixed.labels["forget"]
    unshifted = token_mean(flatness_tokens(logits), labels != -100)
    retain = fixed.mean("retain")
    loss = lagrangian(unshifted, retain, 50.0, 0.3)
    assert loss.item() == pytest.approx(values[case]["loss"], rel=LOSS)
    for name in ("forget", "retain"):
        assert close(fixed.gradient(loss, name), gradients[f"{case}|{name}"], GRADIENT)
    updated = dual_step(50.0, retain.item(), 0.3, 5.0) if case == "PDU_primal_dual_step" else 50.0
    assert [1.0, updated] == pytest.approx(values[case]["preferences_after"], rel=LOSS)
    right = token_mean(flatness_tokens(logits[:, :-1]), fixed.mask["forget"])
    by_hand = np.mean([(p.max() - p.mean()) ** 2 for p, _, _ in rows_of(fixed, "forget")])
    assert right.item() == pytest.approx(by_hand, rel=LOSS)
    assert abs(right.item() / unshifted.item() - 1) > 0.001


@pytest.mark.parametrize("stream", ["forget", "retain"])
def test_rmu_weighs_sequences_alike_and_published_code_divides_by_each_others_lengths(stream, fixed, values, gradients):
    activations = fixed.stored[f"{stream}_act"].requires_grad_()
    target = fixed.stored["control_vec"].flatten() if stream == "forget" else fixed.stored["retain_ref_act"]
    mask = fixed.labels[stream] != -100
    expected = values[f"RMU_{stream}_activation_batch4"]
    alone = []
    for row in range(len(mask)):
        one = slice(row, row + 1)
        alone.append(activation_loss(activations[one], target if stream == "forget" else target[one], mask[one]).item())
    assert alone == pytest.approx(expected["per_row_alone"], rel=LOSS)
    right = activation_loss(activations, target, mask)
    assert right.item() == pytest.approx(expected["mean_of_rows"], rel=LOSS)
    (gradient,) = torch.autograd.grad(right, activations)
    n = mask.sum(dim=1)[:, None, None]
    difference = (activations - target).detach() * mask[..., None]
    assert close(gradient, 2 * difference / (24 * n * 4), GRADIENT)
    # Their value: mean_i(sum_i) mean_j(1/n_j), from dividing [B] by [B, 1].
    sums = ((activations - target).square().mean(dim=-1) * mask).sum(dim=1)
    theirs = sums.mean() * mask.sum(dim=1).double().reciprocal().mean()
    assert theirs.item() == pytest.approx(expected["loss"], rel=LOSS)
    (gradient,) = torch.autograd.grad(theirs, activations)
    assert close(gradient, gradients[f"RMU_{stream}_activation|{stream}_act"], GRADIENT)
