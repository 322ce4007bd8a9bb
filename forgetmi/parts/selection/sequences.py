"""Plans made of plans: one beside another, and one after another."""

from __future__ import annotations

from collections.abc import Mapping

from forgetmi.batch import Batch
from forgetmi.training.plans import Plan, Step


class CycledPlan:
    """One plan visited once an epoch, and beside each of its steps one of a second plan, which starts again as often as
    it must, in a new order each time.

    Args:
        lead: decides how many steps an epoch has.
        follower: its epochs are its passes, counted from the first on; the last pass of an epoch may be cut off.
    """

    def __init__(self, lead: Plan, follower: Plan) -> None:
        self.lead, self.follower = lead, follower

    def steps(self, epoch: int) -> list[Step]:
        """The lead's steps, each with the streams of both."""
        leading = self.lead.steps(epoch)
        passes = -(-len(leading) // len(self.follower.steps(0)))
        following = [step for k in range(passes) for step in self.follower.steps(epoch * passes + k)]
        return [{**a, **b} for a, b in zip(leading, following, strict=False)]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The batches of both."""
        return self.lead.load(step, epoch)


class InTurnPlan:
    """Each epoch visits one plan after another.

    Args:
        plans: stream name to the plan of that one stream, in the order of their turns.
        epochs: stream name to the number of epochs in which it has its turn; a stream that is not named always has.
    """

    def __init__(self, plans: Mapping[str, Plan], epochs: Mapping[str, int] | None = None) -> None:
        self.plans, self.epochs = dict(plans), dict(epochs or {})

    def steps(self, epoch: int) -> list[Step]:
        """The steps of those whose turn it is."""
        turns = [plan for stream, plan in self.plans.items() if epoch < self.epochs.get(stream, epoch + 1)]
        return [step for plan in turns for step in plan.steps(epoch)]

    def load(self, step: Step, epoch: int) -> dict[str, Batch]:
        """The batch of the plan that the step is of."""
        return self.plans[next(iter(step))].load(step, epoch)
