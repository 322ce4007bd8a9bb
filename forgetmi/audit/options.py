"""What an audit does, and the numbers of its rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from forgetmi.errors import ConfigError, did_you_mean

EpsilonLaw = Literal["dp", "gaussian_dp"]
COMPARISON_ATTACK = "published_svc"
STANDARD = ("loss", "entropy", "modified_entropy", "svc", "calibrated", "rmia")
STANDARD_LANGUAGE = ("loss", "zlib", "min_k", "min_k_plus_plus", "calibrated", "rmia")
PEOPLE_LOOKS = 2
_WHERE_THERE_ARE = {"lira": "shadows", "u_lira": "unlearned_shadows"}


@dataclass(frozen=True)
class AuditOptions:
    """Options of an audit. All of them are written into ``evidence.json``.

    Attributes:
        attacks: per-record attacks; the verdict looks at each of them. Empty: the standard ones, and those for which
            there are reference models, see :meth:`with_attacks`.
        attack_options: attack to its options, in place of their defaults.
        headline: the attack that decides whether the audit could have seen anything. Chosen before, not after.
        published_svc: also give the published batch-mean figure, for comparison with tables; the verdict ignores it.
        n_bootstrap: resamples of patients behind each interval.
        level: of the intervals.
        utility_margin: a loss of test AUC against the original up to this is tolerated (absolute).
        loss_margin: of language models, a rise of the test loss over the original's up to this is tolerated (nats a
            token).
        min_patients: with fewer forgotten (or fewer test) patients the verdict is never ``pass``. 10 is the size below
            which hospitals commonly do not publish a count at all.
        people_fpr: of the people who were never in training, the share that the attacker of the decision box may
            accuse wrongly.
        label_queries: noisy copies of a record, itself among them, that the attack ``label_only`` asks about.
        delta: of the lower bounds on epsilon; 0 is pure differential privacy, the strictest claim to test.
        epsilon_law: what the lower bounds on epsilon assume: ``dp`` nothing, ``gaussian_dp`` that the mechanism is
            Gaussian, which no sample can prove; tighter, and there is none at a delta of 0.
        histogram_bins: bins of the loss histograms.
        min_cell: of subgroups of fewer forgotten, or fewer test, patients nothing is published.
        judged_probes: further looks at membership that share the error, see :meth:`level_of`. The audit counts
            them itself, whatever is given.
    """

    attacks: tuple[str, ...] = ()
    attack_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headline: str = "loss"
    published_svc: bool = True
    n_bootstrap: int = 1000
    level: float = 0.95
    utility_margin: float = 0.02
    loss_margin: float = 0.1
    min_patients: int = 10
    people_fpr: float = 0.05
    label_queries: int = 10
    delta: float = 0.0
    epsilon_law: EpsilonLaw = "dp"
    histogram_bins: int = 12
    min_cell: int = 10
    judged_probes: int = 0

    def __post_init__(self) -> None:
        from forgetmi.attacks.membership import ATTACKS

        known = [name for name in ATTACKS if name != COMPARISON_ATTACK]
        problems = [f"attacks: unknown {a!r}. {did_you_mean(a, known)}" for a in self.attacks if a not in known]
        if len(set(self.attacks)) != len(self.attacks):
            problems.append("attacks: each may be named once")
        if self.headline not in (self.attacks or STANDARD):
            named = ", ".join(self.attacks or STANDARD)
            problems.append(f"headline {self.headline!r} is not among the attacks: {named}")
        problems += self._attack_problems(known)
        if self.n_bootstrap < 200:
            problems.append(f"n_bootstrap must be at least 200, not {self.n_bootstrap}: the interval's ends would jump")
        if not 0.5 <= self.level < 1.0:
            problems.append(f"level must lie in [0.5, 1), not {self.level}")
        if not 0.0 <= self.utility_margin <= 1.0:
            problems.append(f"utility_margin must lie in [0, 1], not {self.utility_margin}")
        if not 0.0 <= self.loss_margin < math.inf:
            problems.append(f"loss_margin must be a number of nats of at least 0, not {self.loss_margin}")
        if self.min_patients < 2:
            problems.append(f"min_patients must be at least 2, not {self.min_patients}: one patient has no interval")
        if not 0.0 < self.people_fpr < 1.0:
            problems.append(f"people_fpr must lie in (0, 1), not {self.people_fpr}")
        if self.label_queries < 1:
            problems.append(f"label_queries must be at least 1, not {self.label_queries}")
        if not 0.0 <= self.delta < 1.0:
            problems.append(f"delta must lie in [0, 1), not {self.delta}")
        if self.epsilon_law not in get_args(EpsilonLaw):
            problems.append(
                f"epsilon_law: unknown {self.epsilon_law!r}. {did_you_mean(self.epsilon_law, get_args(EpsilonLaw))}"
            )
        elif self.epsilon_law == "gaussian_dp" and self.delta == 0.0:
            problems.append("epsilon_law gaussian_dp needs a delta above 0: a Gaussian mechanism has no epsilon at 0")
        if self.histogram_bins < 4:
            problems.append(f"histogram_bins must be at least 4, not {self.histogram_bins}")
        if self.min_cell < 3:
            problems.append(f"min_cell must be at least 3, not {self.min_cell}: smaller groups are single people")
        if problems:
            raise ConfigError(problems)

    def _attack_problems(self, known: Sequence[str]) -> list[str]:
        from forgetmi.attacks.membership import ATTACKS
        from forgetmi.options import build_options

        problems = []
        for name, values in self.attack_options.items():
            if name not in known:
                problems.append(f"attack_options: unknown attack {name!r}. {did_you_mean(name, known)}")
                continue
            try:
                build_options(ATTACKS[name], values, where=f"attack_options.{name}")
            except ConfigError as error:
                problems += error.problems
        return problems

    def with_attacks(self, kinds: Collection[str], *, language: bool = False, judged_probes: int = 0) -> AuditOptions:
        """These options with the attacks named: those asked for, or the standard ones.

        ``lira`` is added where there are shadow models, ``u_lira`` where there are unlearned shadow models: they were
        made for nothing else. The choice depends on what was made and on no figure.

        Args:
            kinds: of reference models that there are.
            language: whether the models are language models, which the published attack on batches is not for.
            judged_probes: how many probes the verdict looks at.
        """
        added = [name for name, kind in _WHERE_THERE_ARE.items() if kind in kinds]
        attacks = self.attacks or (*(STANDARD_LANGUAGE if language else STANDARD), *added)
        published = self.published_svc and not language
        made = replace(self, attacks=attacks, published_svc=published, judged_probes=judged_probes)
        return self if made == self else made

    def level_of(self, attack: str) -> float:
        """The level at which a look at membership is judged: the headline's is ``level``, k others share the error.

        Bonferroni: 1 - (1 - level) / k for each of the k others, so that many looks do not make an alarm out of chance.
        The others are the other attacks, two looks at single people (``people``): those who stand out from every test
        patient, either way; and the probes that are judged.
        """
        others = len(self.attacks) - 1 + PEOPLE_LOOKS + self.judged_probes
        return self.level if attack == self.headline else 1.0 - (1.0 - self.level) / others
