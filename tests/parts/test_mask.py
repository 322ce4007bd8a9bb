"""Masks: which entries they choose, and that the others do not move by a bit."""

from __future__ import annotations

import pytest
import torch

from forgetmi.errors import MethodError, TrainingError
from forgetmi.parts.updates.mask import WeightMask, largest
from forgetmi.training.options import FitOptions
from forgetmi.training.trainer import Trainer
from tests.training.toys import Net, fit


def test_the_largest_of_all_tensors_together():
    scores = {"a": torch.tensor([[5.0, 1.0], [4.0, 0.0]]), "b": torch.tensor([3.0, 9.0])}
    masks = largest(scores, 0.5)
    assert masks["a"].tolist() == [[True, False], [True, False]] and masks["b"].tolist() == [False, True]
    assert all(mask.all() for mask in largest(scores, 1.0).values())
    assert not any(mask.any() for mask in largest(scores, 0.0).values())
    ties = largest({"a": torch.ones(5), "b": torch.ones(5)}, 0.3)
    assert ties["a"].tolist() == [True] * 3 + [False] * 2 and not ties["b"].any()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam"])
def test_what_is_masked_out_does_not_move_by_a_bit(optimizer):
    """Weight decay moves weights without a gradient, momentum those that had one: neither may."""
    start = Net()
    masks = largest({name: p.detach().abs() for name, p in start.named_parameters()}, 0.4)
    mask = WeightMask(masks, start)
    trainer = mask.constrain(Trainer(device="cpu", progress=False))
    options = FitOptions(epochs=4, batch_size=4, optimizer=optimizer, weight_decay=0.5, lr=0.05)
    model, _ = fit(options, model=Net(), trainer=trainer)
    original = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter[~masks[name]], original[name][~masks[name]])
        moved = parameter[masks[name]] != original[name][masks[name]]
        assert moved.all()


def test_everything_in_the_mask_is_no_mask_and_a_fit_of_another_model_is_left_alone():
    options = FitOptions(epochs=2, batch_size=4, weight_decay=0.5)
    free, _ = fit(options, model=Net())
    full = {name: torch.ones_like(p, dtype=torch.bool) for name, p in Net().named_parameters()}
    masked, _ = fit(options, model=Net(), trainer=WeightMask(full, Net()).constrain(Trainer(device="cpu")))
    assert all(torch.equal(p, q) for p, q in zip(free.parameters(), masked.parameters(), strict=True))
    none = {name: ~mask for name, mask in full.items()}
    other, _ = fit(options, model=Net(batchnorm=True))
    trainer = WeightMask(none, Net()).constrain(Trainer(device="cpu"))
    same, _ = fit(options, model=Net(batchnorm=True), trainer=trainer)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), same.parameters(), strict=True))


def test_a_model_of_another_shape_is_refused():
    class Wider(Net):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(6, 4)

    mask = WeightMask(largest({n: p.detach() for n, p in Net().named_parameters()}, 0.5), Net())
    with pytest.raises(MethodError, match=r"shape of last\.weight"):
        fit(FitOptions(epochs=1), model=Wider(), trainer=mask.constrain(Trainer(device="cpu")))
    with pytest.raises(MethodError, match="another kind"):
        mask.restore(torch.nn.Linear(2, 2))


def test_a_checkpoint_made_without_the_mask_or_with_another_is_refused(tmp_path):
    def trainer(resume):
        return Trainer(device="cpu", progress=False, checkpoint_dir=tmp_path, resume=resume)

    scores = {n: p.detach().abs() for n, p in Net().named_parameters()}
    half, third = (WeightMask(largest(scores, share), Net()) for share in (1 / 2, 1 / 3))
    options = FitOptions(epochs=1, batch_size=4)
    fit(options, model=Net(), trainer=half.constrain(trainer(False)))
    fit(options, model=Net(), trainer=half.constrain(trainer(True)))
    for other in (trainer(True), third.constrain(trainer(True))):
        with pytest.raises(TrainingError, match="another run"):
            fit(options, model=Net(), trainer=other)
