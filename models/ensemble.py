"""Several models that answer as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forgetmi.errors import ModelError

Answers = Literal["one_of", "independent"]


class Ensemble(nn.Module):
    """The weighted mean of its members' probabilities, as logits. Embeddings are not averaged: it has none.

    Args:
        members: models of one task.
        weights: one each, positive; normalised to sum 1.
        answers: ``one_of``: the last dimension's softmax is averaged, and the logits are the mean's logarithm;
            ``independent``: the sigmoids are, and the logits are the mean's log-odds.

    Raises:
        ModelError: there is no member, or weights do not fit them.
    """

    kind = "ensemble"

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], answers: Answers = "one_of") -> None:
        super().__init__()
        if not members or len(members) != len(weights) or min(weights) <= 0:
            raise ModelError(
                f"an ensemble of {len(members)} models with {len(weights)} weights", expected="one > 0 each"
            )
        self.members = nn.ModuleList(members)
        self.weights = [weight / sum(weights) for weight in weights]
        self.answers = answers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the members return, with the mean for logits."""
        outputs = [member(*args, **kwargs) for member in self.members]
        logits = torch.stack([output.logits.float() for output in outputs])
        share = torch.tensor(self.weights, device=logits.device).log().view(-1, *[1] * (logits.ndim - 1))
        if self.answers == "one_of":
            mean = _log_mean(logits.log_softmax(dim=-1), share)
        else:
            positive, negative = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
            mean = _log_mean(positive, share) - _log_mean(negative, share)
        return type(outputs[0])(logits=mean)

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings that rebuild the members."""
        members = [{"kind": member.kind, "settings": member.to_config()} for member in self.members]  # type: ignore[operator]
        return {"members": members, "weights": list(self.weights), "answers": self.answers}


def _log_mean(log_chances: Tensor, log_share: Tensor) -> Tensor:
    return torch.logsumexp(log_chances + log_share, dim=0)


def build_ensemble(config: Mapping[str, Any], seed: int) -> Ensemble:
    """An ensemble from :meth:`Ensemble.to_config`, each member drawn from the seed."""
    from forgetmi.models import MODELS  # it names this module

    members = [MODELS[member["kind"]](member["settings"], seed) for member in config["members"]]
    return Ensemble(members, config["weights"], config["answers"])
