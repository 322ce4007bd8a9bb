"""What a language model writes: greedy and sampled continuations, in batches and without any global random state.

Plain decoding: what a model's folder says of sampling, penalties and forbidden tokens plays no part. A sampled token is
the inverse of the distribution function at a uniform number, and the numbers of each (seed, prompt's position, sample)
come from a generator of their own. So which prompts share a batch, and how many samples are asked for, changes nothing,
up to the rounding of logits: two tokens whose likelihoods differ by no more than that may be exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.modalities.lm_tokenizer import LMTokenizer
from forgetmi.modalities.tokens import IGNORED, TokenModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.training.modes import scoring
from forgetmi.training.progress import Progress
from forgetmi.training.seeds import numpy_generator

Ended = Callable[[list[int]], bool]


@dataclass(frozen=True)
class Decoding:
    """How a continuation is written.

    Attributes:
        max_new_tokens: at most so many.
        temperature: 0 for greedy decoding, the likeliest token each time; else tokens are drawn from
            softmax(logits / temperature).
        top_p: only the fewest tokens that have this much probability together are drawn from (Holtzman et al. 2020,
            arXiv 1904.09751).
        samples: continuations of each prompt.
        stop: texts that end a continuation; it is cut before the first of them.

    Raises:
        ConfigError: all that is wrong.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            problems.append(f"temperature must be 0 (greedy) or a positive number, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p must be in (0, 1], not {self.top_p}")
        if self.samples < 1:
            problems.append(f"samples must be at least 1, not {self.samples}")
        if self.temperature == 0 and (self.samples > 1 or self.top_p < 1):
            problems.append("samples and top_p are for sampling, and temperature 0 is greedy: set temperature above 0")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            problems.append(f"stop must be a list of texts, none of them empty, not {self.stop!r}")
        if problems:
            raise ConfigError(problems)

    @property
    def words(self) -> str:
        """What it does, to stand beside a number."""
        nucleus = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        how = "greedily" if self.temperature == 0 else f"sampled at temperature {self.temperature:g}{nucleus}"
        return f"written {how}, at most {self.max_new_tokens} tokens"


def continue_tokens(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    eos_id: int | None,
    seed: int,
    batch_size: int = 32,
    progress: bool = False,
) -> list[list[list[int]]]:
    """What the model writes after each prompt.

    Args:
        model: where it stands, adapter on if it has one; left in the mode it came in.
        prompts: ids of N prompts, with whatever special tokens the model is to read.
        decoding: how.
        eos_id: the token that ends a text; it is left out of what is returned. ``None``: nothing ends one.
        seed: of the samples; a greedy continuation has no chance in it.
        batch_size: continuations written at a time; speed and memory only.
        progress: show how far it is.

    Returns:
        [N][samples][tokens], in the order of the prompts. A continuation with fewer tokens than ``max_new_tokens``
        ended itself.

    Raises:
        ConfigError: ``batch_size`` below 1, or stop texts: those need a tokenizer (:func:`continue_texts`).
        DataError: a prompt is empty, has an id that the model does not know, or is too long for it.
        ModelError: the model's logits are not numbers.
    """
    if decoding.stop:
        raise ConfigError(["stop: texts that end a continuation need a tokenizer: use continue_texts"])
    return _continued(model, prompts, decoding, eos_id, seed, batch_size, progress, None)


def continue_texts(
    model: CausalLM,
    tokenizer: LMTokenizer,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    seed: int,
    batch_size: int = 32,
    special: bool = True,
    progress: bool = False,
) -> list[list[str]]:
    """The texts that the model writes after each prompt, without special tokens, cut before a stop text.

    Args:
        model, decoding, seed, batch_size, progress: as :func:`continue_tokens`.
        tokenizer: the model's; its token that ends a text ends a continuation.
        prompts: texts, or ids (:func:`prompts_of`).
        special: whether a text gets the special tokens that the tokenizer adds itself (not where a chat template has
            written them).

    Returns:
        [N][samples].

    Raises:
        ConfigError, DataError, ModelError: as :func:`continue_tokens`.
    """
    ids = [prompt_tokens(tokenizer, prompt, special) if isinstance(prompt, str) else prompt for prompt in prompts]

    def ended(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in decoding.stop)

    found = _continued(
        model, ids, decoding, tokenizer.eos_id, seed, batch_size, progress, ended if decoding.stop else None
    )
    return [[_cut(tokenizer.decode(tokens), decoding.stop) for tokens in samples] for samples in found]


def prompts_of(modality: TokenModality, values: Sequence[Any]) -> list[list[int]]:
    """The tokens that stand before each record's answer, exactly as the model reads them when it is scored.

    Where the answer's first word joins with a space before it, that token is the answer's: the prompt ends before it.

    Args:
        modality: which tells prompt and answer.
        values: ``{"prompt": ..., "answer": ...}`` each, or whatever else the modality reads.

    Raises:
        DataError: a value of another form, a plain text, or what the modality refuses.
    """
    made = []
    for position, value in enumerate(values):
        ids, labels = modality.prepare(value)
        start = int((labels != IGNORED).nonzero()[0])
        if start == 0:
            raise DataError(
                "a record has nothing before its answer that could be continued",
                where=f"record at position {position}",
                expected="{prompt, answer}",
                fix="plain texts are continued from a prefix: forgetmi.metrics.rouge.verbatim_continuation",
            )
        made.append(ids[:start].tolist())
    return made


def prompt_tokens(tokenizer: LMTokenizer, text: str, special: bool) -> list[int]:
    """Ids of a text that something is to follow: without the token that ends a text, where a tokenizer adds one.

    Args:
        tokenizer: the model's.
        text: the prompt.
        special: whether the tokenizer adds its special tokens.
    """
    ids = tokenizer.encode(text, special=special)[0]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_id] else ids


def prefixes_of(
    tokenizer: LMTokenizer, texts: Sequence[str], prefix: int | float, longest: int
) -> list[tuple[list[int], list[int]]]:
    """Texts cut in two: the tokens that a model is asked with, and those that truly follow.

    Args:
        tokenizer: the model's; the special tokens that it puts before a text go before the prefix and count in nothing.
        texts: N of them.
        prefix: how many tokens are asked with; or, below 1, which share of a text's tokens (rounded down, at least
            one).
        longest: at most so many tokens follow.

    Returns:
        [N] (prefix with what goes before it, what follows); nothing follows where a text is no longer than its prefix.

    Raises:
        ConfigError: a prefix that is neither a share in (0, 1) nor a whole number of tokens.
    """
    share = 0 < prefix < 1
    if not share and (prefix < 1 or prefix != int(prefix)):
        raise ConfigError([f"prefix must be a share in (0, 1) or a whole number of tokens, not {prefix}"])
    cut = []
    for text in texts:
        ids, n_text = prompt_tokens(tokenizer, text, True), len(prompt_tokens(tokenizer, text, False))
        before = len(ids) - n_text
        end = before + (max(1, int(prefix * n_text + 1e-9)) if share else int(prefix))
        cut.append((ids[:end], ids[end : end + longest]))
    return cut


@contextmanager
def plain_decoding(lm: Any, max_new_tokens: int, eos_id: int | None = None) -> Iterator[Any]:
    """A model's own settings of generation are defaults of every call: in this block they are put aside.

    Args:
        lm: a model of transformers.
        max_new_tokens: to write.
        eos_id: the token that ends a text, or ``None``.

    Yields:
        The settings, to be given to ``lm.generate`` as well: without them it refuses a model whose config.json holds
        settings of generation, as older folders do.
    """
    from transformers import GenerationConfig

    own, padding = lm.generation_config, getattr(lm.config, "pad_token_id", None)
    lm.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=0 if eos_id is None else eos_id,
        eos_token_id=eos_id,
        use_cache=True,
    )
    # Prompts come with their mask. GPT-2 warns nevertheless: a mask without padding does not reach it.
    lm.config.pad_token_id = None
    try:
        yield lm.generation_config
    finally:
        lm.generation_config, lm.config.pad_token_id = own, padding


def _continued(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    eos_id: int | None,
    seed: int,
    batch_size: int,
    progress: bool,
    ended: Ended | None,
) -> list[list[list[int]]]:
    if batch_size < 1:
        raise ConfigError([f"batch_size must be at least 1, not {batch_size}"])
    _check(model, prompts, decoding)
    rows = [(position, sample) for position in range(len(prompts)) for sample in range(decoding.samples)]
    rows.sort(key=lambda row: len(prompts[row[0]]), reverse=True)  # alike beside alike; what needs most memory first
    found: list[list[list[int]]] = [[[] for _ in range(decoding.samples)] for _ in prompts]
    size = 1 if batch_size > 1 and len(rows) > 1 and _minds_company(model) else batch_size
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    shown = Progress(len(parts), "writing", enabled=progress)
    with scoring(model), plain_decoding(model.lm, decoding.max_new_tokens, eos_id) as settings:
        for part in parts:
            ids, mask = _left_padded([prompts[position] for position, _ in part], model.lm.device)
            choice = _Choice(decoding, _uniforms(decoding, seed, part).to(ids.device), ids.shape[1])
            written = model.lm.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=[choice],
                stopping_criteria=[_Stopping(ended, ids.shape[1])] if ended else None,
            )
            choice.check()
            for (position, sample), tokens in zip(part, written[:, ids.shape[1] :].tolist(), strict=True):
                found[position][sample] = tokens if eos_id not in tokens else tokens[: tokens.index(eos_id)]
            shown.advance({})
    shown.close()
    return found


def _check(model: CausalLM, prompts: Sequence[Sequence[int]], decoding: Decoding) -> None:
    limit = getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)
    for position, prompt in enumerate(prompts):
        where = f"prompt at position {position}"
        if not len(prompt):
            raise DataError("a prompt has no token", where=where, expected="at least one")
        if not 0 <= min(prompt) <= max(prompt) < model.n_tokens:
            raise DataError(
                "a prompt has a token that the model does not know",
                where=where,
                expected=f"ids from 0 to {model.n_tokens - 1}",
                fix="use the model's own tokenizer",
            )
        if limit is not None and len(prompt) + decoding.max_new_tokens > limit:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and {decoding.max_new_tokens} new ones do not fit into the model",
                where=where,
                expected=f"at most {limit} tokens together",
                fix="lower max_new_tokens, or shorten the prompt",
            )


def _minds_company(model: CausalLM) -> bool:
    """Whether a model writes something else where its row is padded and has others beside it.

    Some recurrent models of transformers do not look at the mask, or mix up their rows: they must write row by row.
    Tried once for each architecture, on a few tokens.
    """
    kind = type(model.lm)
    if kind not in _MINDS_COMPANY:
        text, found = [1 % model.n_tokens] * 2, []
        with scoring(model), plain_decoding(model.lm, 2) as settings:
            settings.update(return_dict_in_generate=True, output_logits=True)
            for rows in ([text], [text, [0, *text, 0]]):
                ids, mask = _left_padded(rows, model.lm.device)
                made = model.lm.generate(
                    input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=[_first_token]
                )
                found.append(torch.stack([logits[0].float() for logits in made.logits]))
        alone, padded = found
        if not alone.isfinite().all():
            return False  # a broken model says nothing of its kind
        _MINDS_COMPANY[kind] = not torch.allclose(alone, padded, rtol=0.0, atol=5e-2 * float(alone.abs().max()))
    return _MINDS_COMPANY[kind]


_MINDS_COMPANY: dict[type, bool] = {}


def _first_token(_: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that leaves only token 0: what is written does not hang on a tie."""
    return torch.full_like(scores, -torch.inf).index_fill(1, torch.zeros(1, dtype=torch.long, device=scores.device), 0)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T]: prompts end at one place, so that what is written begins at one."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])
    return ids.to(device), (torch.arange(width) >= width - lengths).long().to(device)


def _uniforms(decoding: Decoding, seed: int, rows: Sequence[tuple[int, int]]) -> Tensor:
    """[B, max_new_tokens]: a number in [0, 1) for each token of each row; none where nothing is drawn."""
    if decoding.temperature == 0:
        return torch.empty(len(rows), 0, dtype=torch.float64)
    drawn = [numpy_generator(seed, "writing", *row).random(decoding.max_new_tokens) for row in rows]
    return torch.from_numpy(np.stack(drawn))


class _Choice:
    """A logits processor that leaves only the chosen token possible, and sees logits that are not numbers."""

    def __init__(self, decoding: Decoding, uniforms: Tensor, width: int) -> None:
        from transformers import TopPLogitsWarper

        self.temperature, self.uniforms, self.width = decoding.temperature, uniforms, width
        self.nucleus = TopPLogitsWarper(decoding.top_p) if decoding.top_p < 1 else None
        self.broken = torch.zeros((), dtype=torch.bool, device=uniforms.device)  # read once: no waiting at each token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best = scores.amax(dim=-1, keepdim=True)  # NaN where any is
        self.broken |= ~best.isfinite().all()
        if self.temperature == 0:
            return scores
        scores = (scores - best).double() / self.temperature
        if self.nucleus is not None:
            scores = self.nucleus(input_ids, scores)
        below = scores.softmax(dim=-1).cumsum(dim=-1)
        total = below[:, -1:].contiguous()
        step = input_ids.shape[1] - self.width
        # Strictly below the total, so that no token of probability zero is chosen.
        at = torch.minimum(self.uniforms[:, step : step + 1] * total, torch.nextafter(total, torch.zeros_like(total)))
        chosen = torch.searchsorted(below, at, right=True).clamp(max=scores.shape[-1] - 1)  # NaN lies behind all
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def check(self) -> None:
        """Raise :class:`ModelError` where logits were not numbers."""
        if bool(self.broken):
            raise ModelError(
                "the model's logits are not finite: what it writes means nothing",
                fix="the model is broken (diverged training, damaged weights): do not use it or its audit",
            )


class _Stopping:
    """A stopping criterion: rows that hold a stop text need no more tokens."""

    def __init__(self, ended: Ended, width: int) -> None:
        self.ended, self.width = ended, width

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = [self.ended(tokens) for tokens in input_ids[:, self.width :].tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _cut(text: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
