"""What the audit of a language model asks beside the standard attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forgetmi.errors import ConfigError, did_you_mean

CONTROLS = ("destroyed", "random_share")


@dataclass(frozen=True)
class LanguageOptions:
    """Options of the section ``audit.language``.

    Attributes:
        records: the models write answers for at most so many records of the forgotten, and as many of test patients,
            drawn by patient; the tokens of all records are scored whatever this is. 0: they write nothing.
        max_new_tokens: longest answer that they write.
        min_k: the share of least likely tokens that min-k attacks look at.
        prompts: also ask in other words, by shipped paraphrases and instructions to give data away.
        samples: also draw so many answers to each prompt, at ``temperature``; 0: none.
        temperature: of the samples.
        identifiers: whether record numbers, dates, telephone numbers and the like are looked for in the answers, and
            each is ranked among made-up ones of its form.
        alternatives: made-up identifiers that each is ranked among.
        quantisers: how weights are rounded for the quantisation attack; empty: not at all. ``forgetmi ls quantisers``.
        relearn_steps: steps of training on a few forgotten records after which the others are attacked; empty: none.
        relearn_records: so few.
        relearn_lr: the learning rate.
        hierarchy: names of what is told step by step before a record is asked for, the widest first: keys of the
            record's value, ``institution``, or ``other_records`` (what else is known of the patient). Empty: none.
        controls: models that stand beside: ``destroyed`` (random weights), ``random_share`` (the same method, shown
            ``share`` of the request).
        share: of the request that the control ``random_share`` unlearns.
        batch_size: of scoring and writing.
    """

    records: int = 60
    max_new_tokens: int = 64
    min_k: float = 0.2
    prompts: bool = True
    samples: int = 0
    temperature: float = 1.0
    identifiers: bool = True
    alternatives: int = 255
    quantisers: tuple[str, ...] = ("int8", "int4", "nf4")
    relearn_steps: tuple[int, ...] = (5, 20)
    relearn_records: int = 5
    relearn_lr: float = 1e-4
    hierarchy: tuple[str, ...] = ()
    controls: tuple[str, ...] = CONTROLS
    share: float = 0.05
    batch_size: int = 32

    def __post_init__(self) -> None:
        from forgetmi.attacks.quantisation import QUANTISERS

        least = {
            "records": 0,
            "max_new_tokens": 1,
            "samples": 0,
            "alternatives": 15,
            "relearn_records": 1,
            "batch_size": 1,
        }
        given = vars(self)
        problems = [
            *(f"{k} must be at least {n}, not {given[k]}" for k, n in least.items() if given[k] < n),
            *(f"{k} must lie in (0, 1], not {given[k]}" for k in ("min_k", "share") if not 0.0 < given[k] <= 1.0),
            *(
                f"{k} must be above 0, not {given[k]}"
                for k in ("temperature", "relearn_lr")
                if not 0.0 < given[k] < math.inf
            ),
        ]
        problems += [
            f"quantisers: unknown {name!r}. {did_you_mean(name, QUANTISERS)}"
            for name in self.quantisers
            if name not in QUANTISERS
        ]
        problems += [f"controls: unknown {name!r}. {did_you_mean(name, CONTROLS)}" for name in self.controls
                     if name not in CONTROLS]  # fmt: skip
        steps = self.relearn_steps
        if any(step < 1 for step in steps) or list(steps) != sorted(set(steps)):
            problems.append(f"relearn_steps must be whole numbers above 0 that rise, not {list(steps)}")
        for name in ("quantisers", "hierarchy", "controls"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                problems.append(f"{name}: each may be named once")
        if problems:
            raise ConfigError(problems)
