"""Membership inference: can someone tell that a record was in training?

``ATTACKS`` maps a name to a dataclass of options with ``result(forget, test, rng, retain=...) -> AttackResult``.
"""

from forgetmi.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "loss": "forgetmi.attacks.membership.population:ThresholdAttack",
        "entropy": "forgetmi.attacks.membership.population:EntropyAttack",
        "modified_entropy": "forgetmi.attacks.membership.population:ModifiedEntropyAttack",
        "svc": "forgetmi.attacks.membership.svc:SvcAttack",
        "published_svc": "forgetmi.attacks.membership.svc:PublishedSvcAttack",
    },
)

__all__ = ["ATTACKS"]
