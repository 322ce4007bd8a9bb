"""Quantisation as an attack: does rounding the weights of an unlearned model bring back what it had forgotten?

Unlearning that hardly moves the weights leaves most of them in the bucket in which they lay before, so that a model
rounded to 4 bits can be the rounded *original* (Zhang et al., ICLR 2025, arXiv 2410.16454). A hospital that passes an
unlearned model on must expect that somebody rounds it, with no ill will at all.

``QUANTISERS`` maps a name to a dataclass of options. Each is a different attack; none stands for the others. All round
weights only, and give a copy with plain floating-point weights: what is measured is what came back, not speed.
:func:`~forgetmi.attacks.quantisation.attack.quantisation_attack` applies the same ones to original, unlearned and
retrained models.
"""

from forgetmi.registry import Registry

QUANTISERS = Registry(
    "quantiser",
    {
        "int8": "forgetmi.attacks.quantisation.quantisers:Int8",
        "int4": "forgetmi.attacks.quantisation.quantisers:Int4",
        "nf4": "forgetmi.attacks.quantisation.quantisers:NF4",
        "fp4": "forgetmi.attacks.quantisation.quantisers:FP4",
        "gptq": "forgetmi.attacks.quantisation.calibrated:GPTQ",
        "awq": "forgetmi.attacks.quantisation.calibrated:AWQ",
    },
)

__all__ = ["QUANTISERS"]
