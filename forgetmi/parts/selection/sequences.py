"""Plans made of plans: one beside another, and one after another."""

from __future__ import annotations

from collections.abc import Sequence

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
