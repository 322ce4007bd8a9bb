"""Membership inference: can someone tell that a record was in training?

``ATTACKS`` maps a name to a dataclass of options with ``result(forget, test, rng, retain=..., population=...)``, which
gives an :class:`~forgetmi.attacks.membership.result.AttackResult`. ``forget`` holds members, ``test`` non-members; both
carry signals of the attacked model, and of reference models where the attack compares with some. ``population`` holds
other records that nobody trained on.
"""

from forgetmi.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "loss": "forgetmi.attacks.membership.population:ThresholdAttack",
        "entropy": "forgetmi.attacks.membership.population:EntropyAttack",
        "modified_entropy": "forgetmi.attacks.membership.population:ModifiedEntropyAttack",
        "zlib": "forgetmi.attacks.membership.language:ZlibAttack",
        "min_k": "forgetmi.attacks.membership.language:MinKAttack",
        "min_k_plus_plus": "forgetmi.attacks.membership.language:MinKPlusPlusAttack",
        "gradient_norm": "forgetmi.attacks.membership.language:GradientNormAttack",
        "perturbation": "forgetmi.attacks.membership.language:PerturbationAttack",
        "lira": "forgetmi.attacks.membership.lira:LiraAttack",
        "rmia": "forgetmi.attacks.membership.rmia:RmiaAttack",
        "calibrated": "forgetmi.attacks.membership.calibrated:CalibratedAttack",
        "attack_p": "forgetmi.attacks.membership.calibrated:PopulationAttack",
        "attack_r": "forgetmi.attacks.membership.calibrated:ReferenceAttack",
        "u_lira": "forgetmi.attacks.membership.u_lira:ULiraAttack",
        "ruli": "forgetmi.attacks.membership.ruli:RuliAttack",
        "label_only": "forgetmi.attacks.membership.label_only:LabelOnlyAttack",
        "cross_modal": "forgetmi.attacks.membership.cross_modal:CrossModalAttack",
        "svc": "forgetmi.attacks.membership.svc:SvcAttack",
        "published_svc": "forgetmi.attacks.membership.svc:PublishedSvcAttack",
    },
)

__all__ = ["ATTACKS"]
