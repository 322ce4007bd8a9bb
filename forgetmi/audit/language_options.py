"""What the audit of a language model asks beside the standard attacks."""

from __future__ import annotations

from dataclasses import dataclass, field

from forgetmi.attacks.extraction.options import ExtractionOptions
from forgetmi.attacks.hierarchical_context import HierarchicalOptions
from forgetmi.attacks.quantisation import QUANTISERS
from forgetmi.attacks.relearning import RelearningOptions
from forgetmi.errors import ConfigError, did_you_mean

CONTROLS = ("destroyed", "random_share")


def _extraction() -> ExtractionOptions:
    # one of each style; all fifteen take three times as long
    return ExtractionOptions(
        parts=("exposure", "templates"), templates=("chart", "form", "emergency", "override", "quotes")
    )


def _relearning() -> RelearningOptions:
    return RelearningOptions(n_records=5, steps=(0, 5, 20))


@dataclass(frozen=True)
class LanguageOptions:
    """Options of the section ``audit.language``.

    Attributes:
        records: the models write answers for at most so many records of the forgotten, and as many of test patients,
            drawn so that as many patients as possible are among them; the tokens of all records are scored whatever
            this is. 0: they write nothing.
        max_new_tokens: longest answer that they write.
        min_k: the share of least likely tokens that min-k attacks look at.
        extraction: prompts in other words (five of the package's fifteen templates unless told otherwise; ``templates:
            null`` for all), identifiers among made-up ones, samples; ``null``: none of it.
        quantisers: how weights are rounded for the quantisation attack; empty: not at all. ``forgetmi ls quantisers``.
        relearning: a few records are taught again; ``null``: not.
        hierarchy: what surrounds a record is told step by step; ``null``: not.
        controls: models that stand beside: ``destroyed`` (random weights), ``random_share`` (the same method, shown
            ``share`` of the request).
        share: of the request that the control ``random_share`` unlearns.
        batch_size: of scoring and writing.
    """

    records: int = 60
    max_new_tokens: int = 64
    min_k: float = 0.2
    extraction: ExtractionOptions | None = field(default_factory=_extraction)
    quantisers: tuple[str, ...] = ("int8", "int4", "nf4")
    relearning: RelearningOptions | None = field(default_factory=_relearning)
    hierarchy: HierarchicalOptions | None = field(default_factory=HierarchicalOptions)
    controls: tuple[str, ...] = CONTROLS
    share: float = 0.05
    batch_size: int = 32

    def __post_init__(self) -> None:
        given = vars(self)
        least = {"records": 0, "max_new_tokens": 1, "batch_size": 1}
        problems = [
            *(f"{k} must be at least {n}, not {given[k]}" for k, n in least.items() if given[k] < n),
            *(f"{k} must lie in (0, 1], not {given[k]}" for k in ("min_k", "share") if not 0.0 < given[k] <= 1.0),
        ]
        for name, known in (("quantisers", QUANTISERS), ("controls", CONTROLS)):
            problems += [f"{name}: unknown {n!r}. {did_you_mean(n, known)}" for n in given[name] if n not in known]
            if len(set(given[name])) != len(given[name]):
                problems.append(f"{name}: each may be named once")
        if self.relearning is not None and self.relearning.what != "forget":
            problems.append("relearning.what: the audit teaches forgotten records; related ones from Python only")
        if problems:
            raise ConfigError(problems)
