"""What an audit does, and the numbers of its rule."""

from __future__ import annotations

from dataclasses import dataclass

from forgetmi.errors import ConfigError, did_you_mean

COMPARISON_ATTACK = "published_svc"


@dataclass(frozen=True)
class AuditOptions:
    """Options of an audit. All of them are written into ``evidence.json``.

    Attributes:
        attacks: per-record attacks; the verdict looks at each of them.
        headline: the attack that decides whether the audit could have seen anything. Chosen before, not after.
        published_svc: also give the published batch-mean figure, for comparison with tables; the verdict ignores it.
        n_bootstrap: resamples of patients behind each interval.
        level: of the intervals.
        utility_margin: a loss of test AUC against the original up to this is tolerated (absolute).
        min_patients: with fewer forgotten (or fewer test) patients the verdict is never ``pass``. 10 is the size below
            which hospitals commonly do not publish a count at all.
        people_fpr: of the people who were never in training, the share that the attacker of the decision box may
            accuse wrongly.
        histogram_bins: bins of the loss histograms.
    """

    attacks: tuple[str, ...] = ("loss", "entropy", "modified_entropy", "svc")
    headline: str = "loss"
    published_svc: bool = True
    n_bootstrap: int = 1000
    level: float = 0.95
    utility_margin: float = 0.02
    min_patients: int = 10
    people_fpr: float = 0.05
    histogram_bins: int = 12

    def __post_init__(self) -> None:
        from forgetmi.attacks.membership import ATTACKS

        known = [name for name in ATTACKS if name != COMPARISON_ATTACK]
        problems = [f"attacks: unknown {a!r}. {did_you_mean(a, known)}" for a in self.attacks if a not in known]
        if len(set(self.attacks)) != len(self.attacks):
            problems.append("attacks: each may be named once")
        if self.headline not in self.attacks:
            problems.append(f"headline {self.headline!r} is not among the attacks: {', '.join(self.attacks) or 'none'}")
        if self.n_bootstrap < 200:
            problems.append(f"n_bootstrap must be at least 200, not {self.n_bootstrap}: the interval's ends would jump")
        if not 0.5 <= self.level < 1.0:
            problems.append(f"level must lie in [0.5, 1), not {self.level}")
        if not 0.0 <= self.utility_margin <= 1.0:
            problems.append(f"utility_margin must lie in [0, 1], not {self.utility_margin}")
        if self.min_patients < 2:
            problems.append(f"min_patients must be at least 2, not {self.min_patients}: one patient has no interval")
        if not 0.0 < self.people_fpr < 1.0:
            problems.append(f"people_fpr must lie in (0, 1), not {self.people_fpr}")
        if self.histogram_bins < 4:
            problems.append(f"histogram_bins must be at least 4, not {self.histogram_bins}")
        if problems:
            raise ConfigError(problems)

    def level_of(self, attack: str) -> float:
        """The level at which an attack is judged: the headline's is ``level``, the k others share the error among them.

        Bonferroni: 1 - (1 - level) / k for each of the k other attacks, so that many attacks do not make an alarm out
        of chance.
        """
        others = len(self.attacks) - 1
        return self.level if attack == self.headline or others == 0 else 1.0 - (1.0 - self.level) / others
