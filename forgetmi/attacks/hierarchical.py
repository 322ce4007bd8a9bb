"""Hierarchical reconstruction: at which level of context does a text come back?

MedForget (arXiv 2512.09867) asks an unlearned model with more and more of the hospital's hierarchy in the prompt:
institution, patient, study. Its published code has no attack, and its paper leaves the prompts open, so what follows is
our reading. Each level tells what the one before tells, and more (see
:class:`~forgetmi.attacks.hierarchical_context.ContextStep`); at each the model is asked for what it has not been told,
and the same measures are taken of the forgotten, the retained and the test records, and of every model. Context helps a
model that never saw the records too, so a level's figure means something only beside a retrained model's at the same
level: :func:`level_differences`. Levels whose beginnings differ ask for different rests and are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from forgetmi.attacks.extraction.asking import fitted, judge, write
from forgetmi.attacks.extraction.attack import summary
from forgetmi.attacks.extraction.prefix import likeliest, verbatim_run
from forgetmi.attacks.hierarchical_context import HierarchicalOptions, Level, build_levels
from forgetmi.batch import Loader
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, absent, measure
from forgetmi.metrics.generation import Decoding
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, PatientBootstrap
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Bools, Floats, mean_statistic
from forgetmi.metrics.rouge import rouge
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.tasks.causal_lm import CausalLMTask

_WORDS = {
    "verbatim": (
        "the model writes {value:.1%} of the rest word for word before it leaves the text.",
        "greedy tokens until the first that is not the true one, over the rest",
    ),
    "accuracy": (
        "{value:.1%} of the rest's tokens are the one that the model finds likeliest, given what is truly before them.",
        "share of the rest's tokens that are the likeliest one, given the true ones before",
    ),
    "rouge": (
        "what the model writes has a ROUGE-L recall of {value:.3f} with the rest.",
        "ROUGE-L recall of the rest, words stemmed; written greedily",
    ),
    "identifiers": (
        "the model writes {value:.1%} of the identifiers that it was not told.",
        "the share of a record's identifiers, without those in the context, that stand in what is written greedily",
    ),
}


@dataclass(frozen=True)
class HierarchicalResult:
    """What came back at each level, of one model.

    Attributes:
        levels: their names, in order.
        measures: ``hierarchy_<level>_<what>`` to a value of each record.
        returned: level to the number of records that came back at it first (ROUGE-L recall of at least
            ``options.returned``); ``never``: of those that did not. Empty where the model writes nothing.
        told: level to the mean ROUGE-L recall of the context itself with what it asks for: what an attacker has without
            a model. ``None`` where no record has words to be recalled.
        counts: of what was left out.
        options: of the attack.
    """

    levels: tuple[str, ...]
    measures: Mapping[str, PerExample]
    returned: Mapping[str, int]
    told: Mapping[str, float | None]
    counts: Mapping[str, int]
    options: HierarchicalOptions = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Means and counts, JSON-able: no text and no single record."""
        return {
            "levels": list(self.levels),
            "measures": {name: summary(measure) for name, measure in self.measures.items()},
            "returned": dict(self.returned),
            "told": dict(self.told),
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class HierarchicalPlan:
    """What every model will be asked; it holds records' texts, and is not to be stored."""

    modality: DialogueModality = field(repr=False)
    levels: Sequence[Level] = field(repr=False)
    counts: Mapping[str, int]
    options: HierarchicalOptions

    def attack(
        self,
        model: nn.Module,
        task: CausalLMTask,
        *,
        device: torch.device,
        batch_size: int = 32,
        progress: bool = False,
    ) -> HierarchicalResult:
        """Ask one model; see :func:`hierarchical_attack`."""
        n = len(self.levels[0].cuts)
        cuts = fitted(model, [cut for level in self.levels for cut in level.cuts])
        right = likeliest(model, task, self.modality, cuts, device=device, batch_size=batch_size)
        asked = [bool(cut.before and cut.after) for cut in cuts]
        found: dict[str, Floats] = {
            "verbatim": _each(right, asked, lambda row: verbatim_run(row, 0) / row.size),
            "accuracy": _each(right, asked, lambda row: row.mean()),
        }
        if isinstance(model, CausalLM):
            found |= self._written(model, asked, batch_size, progress)
        measures = {}
        for what, values in found.items():
            for level, part in zip(self.levels, np.split(values, len(self.levels)), strict=True):
                made = self._example(level.name, what, part)
                measures[made.name] = made
        levels = tuple(level.name for level in self.levels)
        return HierarchicalResult(
            levels,
            measures,
            self._returned(found["rouge"].reshape(-1, n)) if "rouge" in found else {},
            {level.name: _told(level) for level in self.levels},
            self.counts,
            self.options,
        )

    def _written(self, model: CausalLM, asked: Sequence[bool], batch_size: int, progress: bool) -> dict[str, Floats]:
        rows = [(cut, secret) for level in self.levels for cut, secret in zip(level.cuts, level.secrets, strict=True)]
        texts = write(
            model,
            self.modality,
            [cut.before if there else () for (cut, _), there in zip(rows, asked, strict=True)],
            [self.options.max_new_tokens] * len(rows),
            Decoding(),
            seed=0,  # greedy: nothing is drawn
            batch_size=batch_size,
            progress=progress,
        )
        decode = self.modality.tokenizer.decode
        judged = judge([secret for _, secret in rows], [None if text is None else [decode(text[0])] for text in texts])
        return {"rouge": judged["answer"][:, 0], "identifiers": judged["identifiers"][:, 0]}

    def _example(self, level: str, what: str, values: Floats) -> PerExample:
        sentence, how = _WORDS[what]
        written = f", at most {self.options.max_new_tokens} tokens" if what in ("rouge", "identifiers") else ""
        return PerExample(
            f"hierarchy_{level}_{what}",
            values,
            "remembers_above",
            f"At level {level}, {sentence}",
            definition=f"{how}{written}; level {level} of {', '.join(one.name for one in self.levels)}; our reading of "
            "arXiv 2512.09867",
            missing="nothing would stand before it, nothing is left to be asked for, or it has no such secret",
        )

    def _returned(self, scores: Floats) -> dict[str, int]:
        """How many records come back at each level first; ``scores`` [levels, N]."""
        back = np.nan_to_num(scores, nan=0.0) >= self.options.returned
        first = np.where(back.any(axis=0), back.argmax(axis=0), len(self.levels))
        names = [*(level.name for level in self.levels), "never"]
        return {name: int((first == place).sum()) for place, name in enumerate(names)}


def plan_hierarchy(loader: Loader, name: str, indices: Sequence[int], options: HierarchicalOptions) -> HierarchicalPlan:
    """Write down what every model will be asked. Nothing is drawn.

    Args:
        loader: of the records; any record of the same patient in it may be quoted.
        name: of the texts' modality.
        indices: of N records: forgotten, retained or test ones.
        options: of the attack.

    Raises:
        AuditError: there is no record.
        DataError, ConfigError: as :func:`~forgetmi.attacks.hierarchical_context.build_levels`.
    """
    if not len(indices):
        raise AuditError("there is no record to reconstruct", expected="one at least")
    levels, counts = build_levels(loader, name, indices, options)
    counts |= {f"level {level.name} tells nothing new": level.n_told_nothing for level in levels[1:]}
    modality = loader.modalities[name]
    assert isinstance(modality, DialogueModality)  # build_levels refuses any other
    return HierarchicalPlan(modality, levels, counts, options)


def hierarchical_attack(
    model: nn.Module,
    task: CausalLMTask,
    loader: Loader,
    indices: Sequence[int],
    options: HierarchicalOptions,
    *,
    device: torch.device,
    batch_size: int = 32,
    progress: bool = False,
) -> HierarchicalResult:
    """Ask a model for records with more and more context.

    Args:
        model: a :class:`~forgetmi.models.causal_lm.CausalLM` (any other that returns ``.logits`` writes nothing: then
            without ``rouge`` and ``identifiers``); left in the mode it came in.
        task: names the texts' modality.
        loader, indices, options: see :func:`plan_hierarchy`, which is to be preferred for several models.
        device: where the model is.
        batch_size: records at a time; it changes nothing but speed and memory.
        progress: show how far it is.

    Raises:
        AuditError, DataError, ConfigError: as :func:`plan_hierarchy`.
        ModelError: the model is broken.
    """
    plan = plan_hierarchy(loader, task.modality, indices, options)
    return plan.attack(model, task, device=device, batch_size=batch_size, progress=progress)


def level_differences(
    unlearned: HierarchicalResult,
    retrained: Sequence[HierarchicalResult],
    patients: Sequence[int] | np.ndarray,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Figure]:
    """At each level: what comes back from the unlearned model, less what does from retrained ones, record by record.

    Args:
        unlearned: of one model.
        retrained: of others that never saw the records; their mean is taken.
        patients: of each record [N], as integer codes.
        rng: of the intervals, by patient; one stream for all figures.
        n_resamples, level: of the intervals.

    Raises:
        AuditError: there is no retrained model, or it was asked for other records or levels.
    """
    codes = np.asarray(patients)
    if not retrained:
        raise AuditError("there is no retrained model to compare with")
    figures = {}
    for name, mine in unlearned.measures.items():
        theirs = [other.measures[name].values for other in retrained if name in other.measures]
        if len(theirs) < len(retrained) or any(values.shape != mine.values.shape for values in theirs):
            raise AuditError(f"{name}: a retrained model was asked for other records or levels")
        if codes.shape != mine.values.shape:
            raise AuditError(f"{name}: {codes.shape} patients for {mine.values.shape} records")
        gap = mine.values - np.mean(theirs, axis=0)
        known = ~np.isnan(gap)
        kept = known if known.any() else np.ones_like(known)
        bootstrap = PatientBootstrap(codes[kept], rng, n_resamples=n_resamples, level=level)
        key, counts = f"{name}_difference", {"n_retrained": len(theirs), "n_without_value": int((~known).sum())}
        figures[key] = (
            measure(
                key,
                mean_statistic(gap[known]),
                bootstrap,
                direction="remembers_above",
                sentence="The unlearned model's value less the retrained models' mean is {value:+.3f}.",
                bounds=(-1.0, 1.0),
                counts=counts,
            )
            if known.any()
            else absent(
                key, f"no record has a value: {mine.missing}", bootstrap, direction="remembers_above", counts=counts
            )
        )
    return figures


def _each(right: Sequence[Bools], asked: Sequence[bool], function: Any) -> Floats:
    values = [function(row) if there else np.nan for row, there in zip(right, asked, strict=True)]
    return np.array(values, dtype=np.float64)


def _told(level: Level) -> float | None:
    scores = rouge([secret.text for secret in level.secrets], level.contexts)
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else None
