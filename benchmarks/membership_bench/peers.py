"""Other people's functions on the same arrays: found in a checkout by its files, imported when they are run.

Nothing of theirs is copied. Conversions into the form that a function takes are made before the clock starts. What a
checkout imports and this machine lacks (or what would import half of a framework without need) is replaced by empty
stand-ins; a function that uses such a thing fails, and the failure is reported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from membership_bench.cases import DELTA, FPRS, Arrays, Call

A = 0.3  # RMIA's a


class _Nothing:
    """Stands in for an object: any attribute and any call is itself."""

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *given: Any, **named: Any) -> _Nothing:
        return self


class _Empty(types.ModuleType):
    """Stands in for a module: a name in capitals is an empty class, another an object that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        subscript = classmethod(lambda cls, key: cls)  # of a type in an annotation
        return type(name, (), {"__class_getitem__": subscript}) if name[0].isupper() else _Nothing()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = prefixes

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if any(name == prefix or name.startswith(prefix + ".") for prefix in self.prefixes):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def load(folder: Path, module: str, *, missing: Sequence[str] = (), empty: Sequence[str] = ()) -> Any:
    """Import ``module`` from a checkout.

    Args:
        folder: first place where modules are looked for.
        module: dotted name.
        missing: prefixes replaced where they cannot be imported.
        empty: prefixes replaced in any case.
    """
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, _Finder(empty))
    sys.meta_path.append(_Finder(missing))
    return importlib.import_module(module)


def load_file(path: Path, *, missing: Sequence[str] = (), empty: Sequence[str] = ()) -> Any:
    """Import one file as a module of its own, so that the package around it is not."""
    return load(path.parent, path.stem, missing=missing, empty=empty)


def _p(phi: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-phi))


def _halves(arrays: Arrays) -> tuple[Any, Any]:
    return arrays["scores"][arrays["member"]], arrays["scores"][~arrays["member"]]


def _in_out(arrays: Arrays) -> tuple[list[Any], list[Any]]:
    """Scaled logits of each record under the models that saw it, and under the others [n][m, 1]."""
    by_record = list(zip(arrays["references"].T, arrays["seen"].T, strict=True))
    return [phi[seen][:, None] for phi, seen in by_record], [phi[~seen][:, None] for phi, seen in by_record]


# --- ml_privacy_meter -------------------------------------------------------------------------------------------------
def meter_rmia(folder: Path, arrays: Arrays) -> Call:
    """Takes probabilities [records, models], models in pairs; the attacked one and a partner come first."""
    attacks = load(folder, "attacks")
    n_models = len(arrays["references"])

    def columns(phi: str, references: str) -> Any:
        return np.ascontiguousarray(_p(np.vstack([arrays[phi], arrays[phi], arrays[references]])).T)

    seen = np.ascontiguousarray(np.vstack([arrays["member"], ~arrays["member"], arrays["seen"]]).T)
    signals, population = columns("phi", "references"), columns("z_phi", "z_references")
    return lambda: attacks.run_rmia(0, signals, population, seen, n_models // 2, A)


def _meter_audit(folder: Path) -> Any:
    return load(folder, "audit", missing=("torch",), empty=("visualize", "modules"))


def meter_roc(folder: Path, arrays: Arrays) -> Call:
    """AUC and three TPRs."""
    audit = _meter_audit(folder)

    def call() -> tuple[float]:
        return (audit.compute_attack_results(arrays["scores"], arrays["member"])["auc"],)

    return call


def meter_one_run(folder: Path, arrays: Arrays) -> Call:
    """The best of a grid of numbers of guesses, without a correction; at delta 0, where its search takes less long."""
    audit = _meter_audit(folder)
    coins = arrays["member"].astype(np.int64)
    return lambda: audit.compute_abstain_attack_results(arrays["scores"], coins, 0, 0.05)["eps_opt"]


# --- LeakPro ----------------------------------------------------------------------------------------------------------
_LEAKPRO = ("leakpro",)


def _leakpro(folder: Path, name: str, arrays: Arrays) -> tuple[Any, Any]:
    """(module, attack object without its handler). Probabilities or phi are passed where it would compute them."""
    module = load_file(folder / "leakpro/attacks/mia_attacks" / f"{name}.py", empty=_LEAKPRO)
    module.softmax_logits = lambda values, temperature: values
    module.MIAResult = types.SimpleNamespace(from_full_scores=lambda **named: None)  # the scores are what is measured
    cls = module.AttackRMIA if name == "rmia" else module.AttackLiRA
    attack = object.__new__(cls)
    everyone = np.arange(arrays["phi"].size)
    attack.audit_dataset = {"in_members": everyone, "out_members": everyone[:0]}
    attack.out_indices = ~arrays["seen"]
    return module, attack


def leakpro_rmia(folder: Path, arrays: Arrays) -> Call:
    """The scores of the records; what it prepares of the population is not counted."""
    _, attack = _leakpro(folder, "rmia", arrays)

    def two_classes(phi: Any) -> Any:
        return np.stack([1.0 - _p(phi), _p(phi)], axis=-1)

    attack.online, attack.offline_a, attack.gamma, attack.epsilon, attack.temperature = False, A, 1.0, 1e-6, 1.0
    attack.ground_truth_indices = np.ones(arrays["phi"].size, dtype=np.int64)
    attack.logits_theta = two_classes(arrays["phi"])
    attack.logits_shadow_models = list(two_classes(arrays["references"]))
    p_z = 0.5 * ((A + 1.0) * _p(arrays["z_references"]).mean(axis=0) + 1.0 - A)
    attack.ratio_z = (_p(arrays["z_phi"]) / (p_z + attack.epsilon))[None]

    def call() -> Any:
        attack._run_attack()
        return attack.in_member_signals.ravel()

    return call


def leakpro_lira(online: bool) -> Callable[[Path, Arrays], Call]:
    """Its offline form is one-sided at the commit that was measured."""

    def make(folder: Path, arrays: Arrays) -> Call:
        module, attack = _leakpro(folder, "lira", arrays)
        module.tqdm = lambda records, **named: records
        attack.online, attack.var_calculation, attack.fix_var_threshold = online, "carlini", 32
        attack.num_shadow_models = len(arrays["references"])
        attack.configs = _Nothing()
        attack.shadow_models_logits, attack.target_logits = arrays["references"], arrays["phi"]

        def call() -> Any:
            attack.run_attack()
            return attack.in_member_signals.ravel()

        return call

    return make


def leakpro_roc(folder: Path, arrays: Arrays) -> Call:
    """Its result object, without the part that is written to files."""
    module = load_file(folder / "leakpro/reporting/mia_result.py", empty=_LEAKPRO)
    module.MIAResult._make_result_object = lambda self: None
    module.hash_config = str
    member = arrays["member"].astype(np.int64)
    return lambda: (module.MIAResult.from_full_scores(member, arrays["scores"]).roc_auc,)


# --- SACRO-ML ---------------------------------------------------------------------------------------------------------
def sacro_lira(mode: str) -> Callable[[Path, Arrays], Call]:
    """Includes a test of normality for each record, which cannot be left out."""

    def make(folder: Path, arrays: Arrays) -> Call:
        empty = ("sacroml.attacks.report", "sacroml.attacks.target", "sacroml.attacks.model")
        module = load(folder, "sacroml.attacks.likelihood_attack", missing=("fpdf", "acro"), empty=empty)
        attack = object.__new__(module.LIRAAttack)
        attack.mode, attack.fix_variance, attack.report_individual = mode, False, False
        inside, outside = ([values.ravel().tolist() for values in side] for side in _in_out(arrays))
        p = np.stack([1.0 - _p(arrays["phi"]), _p(arrays["phi"])], axis=1)
        labels = np.ones(len(p), dtype=np.int64)

        def call() -> Any:
            scores, _ = attack._compute_scores(labels, p, dict(enumerate(outside)), dict(enumerate(inside)))
            return np.array(scores)[:, 1]  # the column that its metrics are computed from

        return call

    return make


def sacro_roc(folder: Path, arrays: Arrays) -> Call:
    """All its metrics of the curve; they cannot be had one by one."""
    metrics = load(folder, "sacroml.metrics", missing=("fpdf", "acro"), empty=("sacroml.attacks",))
    share = 1.0 / (1.0 + np.exp(-arrays["scores"]))
    p, member = np.stack([1.0 - share, share], axis=1), arrays["member"].astype(np.int64)
    return lambda: (metrics.get_metrics(p, member)["AUC"],)


# --- tensorflow/privacy -----------------------------------------------------------------------------------------------
_TESTS = "tensorflow_privacy/privacy/privacy_tests"


def tf_lira(option: str, centre: str) -> Callable[[Path, Arrays], Call]:
    """Scores are lower for members: they are turned round."""

    def make(folder: Path, arrays: Arrays) -> Call:
        path = folder / _TESTS / "membership_inference_attack/advanced_mia.py"
        module = load_file(path, empty=("tensorflow_privacy",))
        inside, outside = _in_out(arrays)
        target = arrays["phi"][:, None]
        return lambda: -module.compute_score_lira(target, inside, outside, option, median_or_mean=centre)

    return make


def carlini_lira(function: str) -> Callable[[Path, Arrays], Call]:
    """The script of the paper: median as centre, two-sided when offline. Scores are lower for members."""

    def make(folder: Path, arrays: Arrays) -> Call:
        module = load_file(folder / "research/mi_lira_2021/plot.py")
        values = np.ascontiguousarray(arrays["references"][:, :, None])
        target, member = arrays["phi"][None, :, None], arrays["member"][None]
        generate = getattr(module, function)
        return lambda: -np.array(generate(arrays["seen"], values, member, target)[0])

    return make


def tf_clopper_pearson(folder: Path, arrays: Arrays) -> Call:
    """Every threshold, without a correction for their number."""
    module = load_file(folder / _TESTS / "epsilon_lower_bound.py", missing=("immutabledict", "statsmodels"))
    inside, outside = _halves(arrays)

    def call() -> float:
        bound = module.EpsilonLowerBound(inside, outside, 0.05, two_sided_threshold=False)
        return float(bound.compute_epsilon_lower_bound(module.BoundMethod.CLOPPER_PEARSON, 1)[0])

    return call


# --- jax_privacy ------------------------------------------------------------------------------------------------------
def _jax(folder: Path, arrays: Arrays) -> tuple[Any, Any]:
    module = load_file(folder / "jax_privacy/auditing.py", missing=("dp_accounting",))
    inside, outside = _halves(arrays)
    return module, lambda: module.CanaryScoreAuditor(inside, outside)


def jax_roc(folder: Path, arrays: Arrays) -> Call:
    """Of the convex hull of the curve."""
    _, make = _jax(folder, arrays)

    def call() -> tuple[float]:
        auditor = make()
        auditor.tpr_at_given_fpr(np.array(FPRS))
        return (float(auditor.attack_auroc()),)

    return call


def jax_bootstrap(folder: Path, arrays: Arrays) -> Call:
    """Records are resampled, not patients; of the convex hull; threads."""
    module, make = _jax(folder, arrays)
    settings = module.BootstrapParams(num_samples=1000, seed=0)
    return lambda: make().attack_auroc(bootstrap_params=settings)


def jax_one_run(folder: Path, arrays: Arrays) -> Call:
    """The threshold is chosen on one half, as ours."""
    module, make = _jax(folder, arrays)
    strategy = module.Split(seed=0)
    return lambda: make().epsilon_one_run(0.05, DELTA, threshold_strategy=strategy)


def jax_clopper_pearson(folder: Path, arrays: Arrays) -> Call:
    """Every threshold, corrected for their number."""
    _, make = _jax(folder, arrays)
    return lambda: make().epsilon_clopper_pearson(0.05, one_sided=False)


# --- PrivacyGuard -----------------------------------------------------------------------------------------------------
def guard_rmia(folder: Path, arrays: Arrays) -> Call:
    """Takes probabilities [records, models]."""
    module = load(folder, "privacy_guard.attacks.rmia_attack")
    attack = object.__new__(module.RmiaAttack)
    values, z_values = (np.ascontiguousarray(_p(arrays[name]).T) for name in ("references", "z_references"))
    seen, target, z_target = np.ascontiguousarray(arrays["seen"].T), _p(arrays["phi"]), _p(arrays["z_phi"])
    half = values.shape[1] // 2
    return lambda: attack._compute_membership_scores(target, values, seen, z_target, z_values, A, half)


def guard_clopper_pearson(folder: Path, arrays: Arrays) -> Call:
    """Every threshold, without a correction for their number; with AUC and accuracy."""
    module = load(folder, "privacy_guard.analysis.mia.mia_results")
    import torch

    inside, outside = (torch.tensor(side) for side in _halves(arrays))
    return lambda: float(module.MIAResults(inside, outside).compute_acc_auc_ci_epsilon(0.0)[2])


@dataclass(frozen=True)
class Peer:
    """A published package: the file by which its checkout is known, and its functions."""

    name: str
    known_by: str
    calls: dict[str, Callable[[Path, Arrays], Call]]


PEERS = (
    Peer(
        "ml_privacy_meter",
        "run_range_mia.py",
        {"rmia": meter_rmia, "rmia_large": meter_rmia, "roc": meter_roc, "one_run": meter_one_run},
    ),
    Peer(
        "LeakPro",
        "leakpro/attacks/mia_attacks/rmia.py",
        {
            "rmia": leakpro_rmia,
            "rmia_large": leakpro_rmia,
            "lira_online": leakpro_lira(True),
            "lira_one_sided": leakpro_lira(False),
            "roc": leakpro_roc,
        },
    ),
    Peer(
        "SACRO-ML",
        "sacroml/attacks/likelihood_attack.py",
        {"lira_online": sacro_lira("online-carlini"), "lira_one_sided": sacro_lira("offline"), "roc": sacro_roc},
    ),
    Peer(
        "tensorflow/privacy",
        f"{_TESTS}/membership_inference_attack/advanced_mia.py",
        {
            "lira_online": tf_lira("both", "mean"),
            "lira_online_median": tf_lira("both", "median"),
            "clopper_pearson": tf_clopper_pearson,
        },
    ),
    Peer(
        "mi_lira_2021",
        "research/mi_lira_2021/plot.py",
        {
            "lira_online": carlini_lira("generate_ours"),
            "lira_online_median": carlini_lira("generate_ours"),
            "lira_offline": carlini_lira("generate_ours_offline"),
        },
    ),
    Peer(
        "jax_privacy",
        "jax_privacy/auditing.py",
        {
            "roc": jax_roc,
            "bootstrap": jax_bootstrap,
            "one_run": jax_one_run,
            "clopper_pearson": jax_clopper_pearson,
        },
    ),
    Peer(
        "PrivacyGuard",
        "privacy_guard/attacks/rmia_attack.py",
        {"rmia": guard_rmia, "rmia_large": guard_rmia, "clopper_pearson": guard_clopper_pearson},
    ),
)


def recognise(folder: Path) -> list[Peer]:
    """The packages in a checkout: none, one, or (tensorflow/privacy) two."""
    return [peer for peer in PEERS if (folder / peer.known_by).is_file()]
