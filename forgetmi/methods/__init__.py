"""Unlearning methods, one short file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.errors import ConfigError
from forgetmi.methods.base import Needs, UnlearningJob, UnlearningMethod, check_job
from forgetmi.options import build_options
from forgetmi.registry import Registry

METHODS = Registry(
    "method",
    {
        "ails": "forgetmi.methods.ails:AILS",
        "bad_teacher": "forgetmi.methods.bad_teacher:BadTeacher",
        "boundary_expand": "forgetmi.methods.boundary_expand:BoundaryExpand",
        "boundary_shrink": "forgetmi.methods.boundary_shrink:BoundaryShrink",
        "ce_u": "forgetmi.methods.ceu:CEU",
        "cf_k": "forgetmi.methods.last_layers:CFk",
        "chip": "forgetmi.methods.chip:CHIP",
        "delete": "forgetmi.methods.delete:Delete",
        "dpo": "forgetmi.methods.dpo:DPO",
        "eu_k": "forgetmi.methods.last_layers:EUk",
        "fine_tune": "forgetmi.methods.fine_tune:FineTune",
        "fisher_forgetting": "forgetmi.methods.fisher_forgetting:FisherForgetting",
        "flat": "forgetmi.methods.flat:FLAT",
        "fnn": "forgetmi.methods.fnn:FNN",
        "forget_mi": "forgetmi.methods.forget_mi:ForgetMI",
        "grad_diff": "forgetmi.methods.grad_diff:GradDiff",
        "gradient_ascent": "forgetmi.methods.gradient_ascent:GradientAscent",
        "grin": "forgetmi.methods.grin:GRIN",
        "guarded": "forgetmi.methods.guarded:Guarded",
        "influence": "forgetmi.methods.influence:Influence",
        "kl_min": "forgetmi.methods.grad_diff:KLMin",
        "l1_sparse": "forgetmi.methods.l1_sparse:L1Sparse",
        "multi_delete": "forgetmi.methods.multi_delete:MultiDelete",
        "multi_gan": "forgetmi.methods.multi_gan:MultiGAN",
        "neg_grad_plus": "forgetmi.methods.neg_grad_plus:NegGradPlus",
        "npo": "forgetmi.methods.npo:NPO",
        "pdu": "forgetmi.methods.pdu:PDU",
        "po": "forgetmi.methods.dpo:PO",
        "random_labels": "forgetmi.methods.random_labels:RandomLabels",
        "random_share": "forgetmi.methods.random_share:RandomShare",
        "retrain": "forgetmi.methods.retrain:Retrain",
        "rmu": "forgetmi.methods.rmu:RMU",
        "rum": "forgetmi.methods.rum:RUM",
        "salun": "forgetmi.methods.salun:SalUn",
        "satimp": "forgetmi.methods.reweighted:SatImp",
        "scrub": "forgetmi.methods.scrub:Scrub",
        "scrub_r": "forgetmi.methods.scrub:ScrubR",
        "sga": "forgetmi.methods.sga:SGA",
        "simnpo": "forgetmi.methods.simnpo:SimNPO",
        "sisa": "forgetmi.methods.sisa:SISA",
        "ssd": "forgetmi.methods.ssd:SSD",
        "sure": "forgetmi.methods.sure:SURE",
        "ta": "forgetmi.methods.task_vectors:TA",
        "task_vectors": "forgetmi.methods.task_vectors:TaskVectors",
        "tau": "forgetmi.methods.task_vectors:TAU",
        "tnpo": "forgetmi.methods.reweighted:TNPO",
        "undial": "forgetmi.methods.undial:UNDIAL",
        "unsir": "forgetmi.methods.unsir:UNSIR",
        "wga": "forgetmi.methods.reweighted:WGA",
        "whp": "forgetmi.methods.whp:WHP",
        "zjuklab": "forgetmi.methods.zjuklab:ZJUKLAB",
    },
)


def build_method(name: str, options: Mapping[str, Any] | None = None) -> UnlearningMethod:
    """A method with its options.

    Raises:
        ConfigError: the name or an option is unknown or wrong; all problems at once.
    """
    method: UnlearningMethod = build_options(METHODS[name], options or {}, where=f"method {name}")
    return method


def method_problems(name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a method's name or options; empty where nothing is. For methods that wrap others."""
    try:
        build_method(name, options)
    except ConfigError as error:
        return list(error.problems)
    return []


__all__ = ["METHODS", "Needs", "UnlearningJob", "UnlearningMethod", "build_method", "check_job", "method_problems"]
