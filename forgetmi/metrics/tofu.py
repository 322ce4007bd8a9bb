"""TOFU (Maini et al., COLM 2024, arXiv 2401.06121): one evaluation of a model on its sets, in as few passes as can be.

Every answer of every set (right, paraphrased, wrong) goes through the model once, all of them in one sequence of
batches, and every prompt is continued once. All figures are functions of that: probability, ROUGE-L recall, truth
ratio, forget quality, model utility, and beside them exact memorisation, extraction strength and, for whoever attacks,
the token signals of forget and holdout records.

===============  ==================================  ===================================================================
figure           forget, retain                      real authors, world facts
===============  ==================================  ===================================================================
probability      P(a|q)^(1/|a|)                      P(a|q) over its sum over all answers on offer
rouge            ROUGE-L recall of what is written   the same
truth ratio      min(R, 1/R); max(0, 1 - R)          max(0, 1 - R), R to the right answer itself
===============  ==================================  ===================================================================

*Model utility* is the harmonic mean of the nine means of retain, real authors and world facts. *Forget quality* is the
p-value of the two-sample Kolmogorov-Smirnov test of the forget set's truth ratios against a retrained model's.

Where paper and published code differ, ``definition`` says whose is meant:

==================================  ======================  =================================================
..                                  ``paper``               ``open_unlearning``
==================================  ======================  =================================================
R, mean over wrong answers          arithmetic              geometric
answers on offer are weighed by     P(a|q)                  P(a|q)^(1/|a|)
memorisation, extraction strength   all tokens of answers   without the last one, the token that ends the text
==================================  ======================  =================================================

*Our reading* of the test: it takes questions for independent, as published, and twenty questions of one author are not,
so its p-value is too small; a difference from the retrained model is judged by the figures' intervals by author.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forgetmi.errors import AuditError, DataError
from forgetmi.metrics.choice_scoring import score_values
from forgetmi.metrics.generation import continue_texts, prompts_of
from forgetmi.metrics.memorisation import exact_memorisation, extraction_strength
from forgetmi.metrics.per_example import PerExample
from forgetmi.metrics.roc import Floats
from forgetmi.metrics.rouge import rouge
from forgetmi.metrics.tofu_result import ROLES, UTILITY, Role, TofuOptions, TofuResult, TofuSet, forget_quality
from forgetmi.metrics.token_signals import TokenSignals, probability
from forgetmi.metrics.truth_ratio import option_probability, truth_ratios
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.records import RecordDataset


def evaluate_tofu(
    model: CausalLM,
    modality: DialogueModality,
    dataset: RecordDataset,
    options: TofuOptions | None = None,
    *,
    retrained: TofuResult | None = None,
    progress: bool = False,
) -> TofuResult:
    """Evaluate a model on TOFU's sets, or on one's own of the same form.

    Args:
        model: left in the mode it came in.
        modality: turns prompts and answers into tokens; published figures of chat models are with the template.
        dataset: of :class:`~forgetmi.data_adapters.tofu.Tofu`: records whose ``source_split`` names their set, e.g.
            forget10_perturbed, retain_perturbed, real_authors_perturbed, world_facts_perturbed, holdout10, and whose
            ``dialogue`` holds prompt, answer and, where there are any, paraphrased_answer and perturbed_answers.
        options: how.
        retrained: the same evaluation of a retrained model, for forget quality.
        progress: show how far it is.

    Raises:
        DataError: a record is of no set, two sets play one role, or there is no forget set.
        AuditError: ``retrained`` was evaluated with another definition.
        ModelError: the model's outputs are not numbers.
    """
    how = options or TofuOptions()
    if retrained is not None and retrained.options.definition != how.definition:
        raise AuditError("the retrained model was evaluated with another definition", expected=how.definition)
    members = _roles(dataset)
    values = {role: [dataset[i].value("dialogue") for i in indices] for role, (_, indices) in members.items()}
    scored = _scored(model, modality, values, how.batch_size)
    asked = [(role, value) for role, rows in values.items() if role != "holdout" for value in rows]
    texts = continue_texts(
        model,
        modality.tokenizer,
        prompts_of(modality, [value for _, value in asked]),
        how.decoding,
        seed=how.seed,
        batch_size=how.batch_size,
        progress=progress,
    )
    written: dict[Role, list[str]] = {role: [] for role in members}
    for (role, _), samples in zip(asked, texts, strict=True):
        written[role].append(samples[0])
    sets = {
        role: _set(role, name, [dataset[i].patient_id for i in indices], values[role], scored[role], written[role], how)
        for role, (name, indices) in members.items()
    }
    quality = None
    if retrained is not None:
        pair = [result["forget"].ratios for result in (sets, retrained.sets)]
        if pair[0] is None or pair[1] is None:
            raise AuditError("forget quality needs a forget set with wrong answers", fix="name forgetNN_perturbed")
        quality = forget_quality(pair[0], pair[1])
    return TofuResult(how, sets, quality)


@dataclass(frozen=True)
class _Scored:
    """Of one set: token signals of the right answers; nll and number of tokens of the others."""

    right: TokenSignals
    paraphrased: Floats  # [N, 2] nll and tokens, NaN where there is none
    wrong: Floats  # [N, A, 2]


def _roles(dataset: RecordDataset) -> dict[Role, tuple[str, list[int]]]:
    """Role to the set's name and its records' positions."""
    found: dict[Role, tuple[str, list[int]]] = {}
    for position, record in enumerate(dataset):
        name = record.attributes.get("source_split", "")
        role = next((role for role in ROLES if name.startswith(role)), None)
        if role is None:
            raise DataError(
                f"a record of the set {name!r} plays no part in this evaluation",
                expected=f"sets whose source_split begins with {', '.join(ROLES)}",
            )
        known = found.setdefault(role, (name, []))
        if known[0] != name:
            raise DataError(f"{known[0]} and {name} are both {role} sets", expected="one set a role")
        known[1].append(position)
    if "forget" not in found:
        raise DataError("there is no forget set", expected="records whose source_split begins with forget")
    return {role: found[role] for role in ROLES if role in found}


def _scored(
    model: CausalLM,
    modality: DialogueModality,
    values: Mapping[Role, Sequence[Mapping[str, Any]]],
    batch_size: int,
) -> dict[Role, _Scored]:
    """Every answer of every set through the model once."""
    rows: list[dict[str, str]] = []
    places: dict[tuple[Role, int, int], int] = {}  # answer 0: right, 1: paraphrased, 2...: wrong
    for role, records in values.items():
        for n, value in enumerate(records):
            answers = [value["answer"], value.get("paraphrased_answer"), *value.get("perturbed_answers", ())]
            for answer, text in enumerate(answers[: 1 if role == "holdout" else None]):
                if text:
                    places[role, n, answer] = len(rows)
                    rows.append({"prompt": value["prompt"], "answer": text})
    signals = score_values(model, modality, rows, batch_size)
    pairs = np.stack([signals.nll.sum(axis=1), signals.n_tokens.astype(np.float64)], axis=1)
    found: dict[Role, _Scored] = {}
    for role, records in values.items():
        most = max([len(value.get("perturbed_answers", ())) for value in records])
        table = np.full((len(records), 1 + max(most, 1), 2), np.nan)
        for (of, n, answer), row in places.items():
            if of == role and answer:
                table[n, answer - 1] = pairs[row]
        right = signals.take([places[role, n, 0] for n in range(len(records))])
        found[role] = _Scored(right, table[:, 0], table[:, 1:])
    return found


def _set(
    role: Role,
    name: str,
    patients: Sequence[str],
    values: Sequence[Mapping[str, Any]],
    scored: _Scored,
    written: Sequence[str],
    how: TofuOptions,
) -> TofuSet:
    published = how.definition == "open_unlearning"
    options, signals = role in ("real_authors", "world_facts"), scored.right
    texts = tuple(value["answer"] for value in values)
    right = np.stack([signals.nll.sum(axis=1), signals.n_tokens.astype(np.float64)], axis=-1)
    metrics: dict[str, PerExample] = {} if options else {"probability": probability(signals)}
    ratios = None
    if not np.isnan(scored.wrong).all():
        ratios = truth_ratios(
            _per_token(right if options else scored.paraphrased),
            _per_token(scored.wrong),
            averaging="geometric" if published else "arithmetic",
        )
        if role == "forget":
            metrics |= {"truth_ratio": ratios.closer_to_1_better(), "truth_share": ratios.prob_mean()}
        else:
            metrics["truth_ratio"] = ratios.true_better()
        if options:
            pair = [_per_token(of) if published else of[..., 0] for of in (right, scored.wrong)]
            metrics["probability"] = option_probability(*pair, per_token=published)
    if written:
        metrics["rouge"] = _rouge(texts, written, how, "an answer")
    if role == "forget" and any(value.get("paraphrased_answer") for value in values):
        others = [value.get("paraphrased_answer") for value in values]
        metrics["paraphrase_rouge"] = _rouge(others, written, how, "a paraphrased answer")
    kept = signals.without_last() if published else signals
    metrics |= {"exact_memorisation": exact_memorisation(kept), "extraction_strength": extraction_strength(kept)}
    if role in UTILITY:
        metrics = {key: replace(metric, direction="useful_above") for key, metric in metrics.items()}
    named = {key: replace(metric, name=f"{role}_{key}") for key, metric in metrics.items()}
    codes = np.unique(patients, return_inverse=True)[1]
    return TofuSet(
        role=role,
        name=name,
        patients=codes,
        prompts=tuple(value["prompt"] for value in values),
        texts=texts,
        signals=signals,
        written=tuple(written),
        ratios=ratios,
        metrics={} if role == "holdout" else named,
    )


def _per_token(pairs: Floats) -> Floats:
    """[...] mean negative log-likelihood of a token, of pairs [..., 2] of its sum and the number of tokens."""
    return np.asarray(pairs[..., 0] / pairs[..., 1], dtype=np.float64)


def _rouge(references: Sequence[str | None], written: Sequence[str], how: TofuOptions, what: str) -> PerExample:
    known = [n for n, reference in enumerate(references) if reference]
    values = np.full(len(references), np.nan)
    values[known] = rouge([references[n] or "" for n in known], [written[n] for n in known], "rougeL_recall")
    return PerExample(
        "rouge",
        values,
        "remembers_above",
        "Asked the question, the model writes {value:.1%} of the words of " + what + ", in order (ROUGE-L recall).",
        definition=f"ROUGE-L recall, words stemmed; {how.decoding.words}",
        missing="it has no paraphrased answer",
    )
