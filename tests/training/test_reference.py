"""The frozen original: the same outputs whether kept or fresh, each record computed once, the original untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from forgetmi.batch import Loader
from forgetmi.modalities.tokens import TokenModality
from forgetmi.models.output import ModelOutput
from forgetmi.tasks.causal_lm import CausalLMTask
from forgetmi.training.reference import Reference
from forgetmi.training.runlog import RunLog
from tests.tiny import classifier_case, same_state, state_of, tiny_gpt2, tiny_sequences
from tests.training.toys import TASK, Net, vector_loader

CPU = torch.device("cpu")
N = 700  # the cache starts with 256 rows: it must grow twice


@pytest.fixture(scope="module")
def loader() -> Loader:
    return vector_loader(N)


def same(a: ModelOutput, b: ModelOutput) -> bool:
    def close(x, y):
        return torch.allclose(x, y, atol=1e-6)

    return (
        close(a.logits, b.logits)
        and close(a.joint, b.joint)
        and a.unimodal.keys() == b.unimodal.keys()
        and all(close(a.unimodal[name], b.unimodal[name]) for name in a.unimodal)
        and all(torch.equal(a.present[name], b.present[name]) for name in a.present)
    )


def test_any_order_and_subset_is_right_and_each_record_is_computed_once(loader):
    model = Net(dropout=0.5, batchnorm=True)
    reference, fresh = Reference(model, TASK, CPU), Reference(Net(dropout=0.5, batchnorm=True), TASK, CPU)
    draw, asked = np.random.default_rng(0), set()
    for size in (3, 40, 300, 17, 500, 1, N):
        batch = loader.batch(draw.permutation(N)[:size].tolist())
        asked |= set(batch.indices.tolist())
        assert same(reference.cached(batch), fresh.output(batch))
        assert model.rows == len(asked) == reference.n_cached
    assert same(reference.cached(loader.batch([5, 5, 2])), fresh.output(loader.batch([5, 5, 2])))
    assert model.rows == N


def test_a_record_that_stands_twice_in_a_batch_takes_one_row(loader):
    """With fewer retain than forget records, one stands twice in a batch. Rows that follow must not overwrite it."""
    reference, fresh = Reference(Net(), TASK, CPU), Reference(Net(), TASK, CPU)
    for indices in ([4, 4, 7, 4], [1, 2, 1], [4, 7, 1, 2]):
        assert same(reference.cached(loader.batch(indices)), fresh.output(loader.batch(indices)))
    assert reference.n_cached == reference.model.rows == 4


def test_what_is_kept_is_not_changed_by_who_gets_it(loader):
    reference, batch = Reference(Net(), TASK, CPU), loader.batch([0, 1, 2])
    for _ in range(2):  # the first answer is fresh, the second comes from the cache
        output = reference.cached(batch)
        before = output.logits.clone()
        output.logits.zero_()
        output.joint.add_(1.0)
        assert torch.equal(reference.cached(batch).logits, before)


def test_outputs_can_enter_a_graph_and_carry_no_gradient(loader):
    model = Net()
    reference, batch = Reference(model, TASK, CPU), loader.batch([0, 1])
    student = Net(seed=1)
    for output in (reference.output(batch), reference.cached(batch), reference.cached(batch)):
        assert not output.logits.requires_grad and not output.logits.is_inference()
        (student(batch).logits * output.logits).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert student.last.weight.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_row_16_the_original_is_untouched_even_in_train_mode(training, loader):
    model = Net(dropout=0.5, batchnorm=True).train(training)
    model.dropout.train(not training)
    before, flags = state_of(model), [m.training for m in model.modules()]
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    reference = Reference(model, TASK, CPU)
    batch = loader.batch(range(20))
    first, again = reference.output(batch), reference.output(batch)
    reference.cached(batch)
    reference.nll(batch)
    assert torch.equal(first.logits, again.logits), "dropout was on"
    assert not any(model.modes)
    assert same_state(before, state_of(model)) and [m.training for m in model.modules()] == flags
    assert torch.equal(random_state, torch.get_rng_state())
    whole = reference.output(loader.batch(range(40))).logits[:20]
    assert torch.allclose(first.logits, whole, atol=1e-6), "a row depends on its batch-mates"


def test_nll_is_that_of_the_task_and_computed_once(loader):
    model = Net(batchnorm=True).eval()
    reference = Reference(model, TASK, CPU)
    expected = TASK.nll(Net(batchnorm=True).eval(), loader.batch(range(30))).detach()
    torch.testing.assert_close(reference.nll(loader.batch(range(10))), expected[:10])
    torch.testing.assert_close(reference.nll(loader.batch([29, 3, 3, 15])), expected[[29, 3, 3, 15]])
    assert model.rows == 12
    assert reference.n_cached == 0  # likelihoods are kept apart


def test_the_nll_of_a_sequence_does_not_depend_on_its_padding():
    loader = Loader(tiny_sequences(), {"tokens": TokenModality(0)})
    lengths = [len(r.modalities["tokens"]["ids"]) for r in loader.dataset]
    short, long = int(np.argmin(lengths)), int(np.argmax(lengths))
    assert lengths[short] < lengths[long]
    values = []
    for indices in ([short], [short, long], [long, short]):
        reference = Reference(tiny_gpt2().train(), CausalLMTask(), CPU)
        values.append(float(reference.nll(loader.batch(indices))[indices.index(short)]))
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_sequence_logits_are_computed_each_time():
    loader = Loader(tiny_sequences(), {"tokens": TokenModality(0)})
    reference = Reference(tiny_gpt2().eval(), CausalLMTask(), CPU)
    batch = loader.batch([0, 1, 1])
    assert torch.equal(reference.cached(batch).logits, reference.output(batch).logits)
    assert reference.n_cached == 0


def test_a_record_with_a_modality_left_out_is_another_input():
    """A request for one modality shows the same position with less in it: a kept row of the whole would be wrong."""
    case = classifier_case()
    index = next(i for i in range(48) if all(v is not None for v in case.dataset[i].modalities.values()))
    narrow = case.loader.restricted_to({index: case.dataset[index].keep_only(["note"])})
    reference = case.job().reference
    for loader in (case.loader, narrow, case.loader, narrow):
        batch = loader.batch([index])
        assert torch.allclose(reference.cached(batch).logits, reference.output(batch).logits, atol=1e-6)
        assert torch.allclose(reference.nll(batch), case.task.nll_of(reference.output(batch), batch), atol=1e-6)
    assert reference.n_cached == 2


def test_a_fresh_reference_keeps_nothing_and_states_come_back(loader):
    reference = Reference(Net(), TASK, CPU)
    reference.cached(loader.batch(range(300)))
    reference.nll(loader.batch(range(7)))
    other = reference.fresh()
    assert other.model is reference.model and other.n_cached == 0
    other.load_state_dict(reference.state_dict())
    rows = reference.model.rows
    batch = loader.batch([299, 3])
    assert torch.equal(other.cached(batch).logits, reference.cached(batch).logits)
    assert torch.equal(other.nll(loader.batch([6])), reference.nll(loader.batch([6])))
    assert reference.model.rows == rows
    other.cached(loader.batch(range(295, 310)))  # goes on growing
    assert other.n_cached == 310 and reference.n_cached == 300


def test_the_choice_is_logged_and_a_copy_is_made_only_for_another_device():
    log, model = RunLog(), Net()
    assert Reference(model, TASK, CPU, log).model is model
    elsewhere = Reference(model, TASK, torch.device("meta"), log)
    assert elsewhere.model is not model and next(model.parameters()).device == CPU
    kinds = [event["kind"] for event in log.events]
    assert kinds == ["the original itself", "a frozen copy on the device"]


def test_a_model_that_is_half_elsewhere_is_copied_whole():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1, device="meta")})
    assert Reference(model, TASK, torch.device("meta")).model is not model
