"""Tokenizers for encoders that are trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from forgetmi.errors import ConfigError, DataError, ModelError
from forgetmi.files import write_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
END, PAD = "<|end|>", "<|pad|>"


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model: Literal["wordpiece", "wordlevel"] = "wordpiece",
    lowercase: bool = True,
    min_frequency: int = 2,
) -> Tokenizer:
    """A tokenizer whose vocabulary comes from the texts; the same texts in any order give the same one.

    Train it on the training split only. A vocabulary is learned from its texts and is not unlearned with a model: a
    word that only one patient's report has stays in it unless ``min_frequency`` keeps it out. Digits are split from one
    another, so that no number (a record number, a telephone number, a date) is ever in it.

    Args:
        texts: the texts.
        vocab_size: at most so many tokens, the four special ones included ([PAD] is 0, then [UNK], [CLS], [SEP]).
        model: pieces of words, or whole words.
        lowercase: whether case is dropped, accents with it.
        min_frequency: how often a word or a pair of pieces must occur.

    Returns:
        A tokenizer that puts [CLS] before a text and [SEP] after it. Its vocabulary may be smaller than asked for:
        ``get_vocab_size()`` says.

    Raises:
        ConfigError: a setting is out of range.
        DataError: there is no text with a word in it.
    """
    problems = []
    if vocab_size <= len(SPECIAL_TOKENS):
        problems.append(f"vocab_size must be more than the {len(SPECIAL_TOKENS)} special tokens, got {vocab_size}")
    if min_frequency < 1:
        problems.append(f"min_frequency must be at least 1, got {min_frequency}")
    if model not in ("wordpiece", "wordlevel"):
        problems.append(f"tokenizer model must be 'wordpiece' or 'wordlevel', got {model!r}")
    if problems:
        raise ConfigError(problems)

    # The same words in any order must give the same vocabulary; the trainer counts in the order given.
    ordered = sorted(texts)
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer = Tokenizer(_model(model, []))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    first = list(SPECIAL_TOKENS)
    if model == "wordpiece":
        # The trainer numbers pieces inside words in an order that changes from run to run, and breaks ties by number;
        # named beforehand they have fixed numbers.
        words = (w for text in ordered for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        first += sorted({f"##{letter}" for word in words for letter in word[1:]})
        if vocab_size < len(first):
            raise ConfigError(
                [f"vocab_size must be at least {len(first)}, one a letter of the texts, got {vocab_size}"]
            )
    trainer = (trainers.WordPieceTrainer if model == "wordpiece" else trainers.WordLevelTrainer)(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(ordered, trainer)
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(first):
        raise DataError(
            "the tokenizer's training texts hold no word often enough",
            fix=f"give it texts, or lower min_frequency (now {min_frequency})",
        )
    # A new one, because the pieces named beforehand are no special tokens.
    tokenizer = Tokenizer(_model(model, sorted(vocabulary, key=vocabulary.__getitem__)))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    if model == "wordpiece":
        tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def train_lm_tokenizer(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
    """A tokenizer of a language model that is trained from scratch: byte-level BPE, so that any text comes back as it
    was. The same texts in any order give the same one; digits stay single, as in :func:`train_tokenizer`, which says
    what a vocabulary remembers.

    Args:
        texts: of the training split only.
        vocab_size: at most so many tokens; the 256 bytes, :data:`END` (0) and :data:`PAD` (1) are always there.
        min_frequency: how often a pair of pieces must occur.

    Raises:
        ConfigError: a setting is out of range.
        DataError: there is no text.
    """
    ordered = sorted(texts)
    problems = [] if vocab_size >= 258 else [f"vocab_size must be at least 258, got {vocab_size}"]
    problems += [] if min_frequency >= 1 else [f"min_frequency must be at least 1, got {min_frequency}"]
    if problems:
        raise ConfigError(problems)
    if not any(text.strip() for text in ordered):
        raise DataError("the tokenizer has no text to be trained on", fix="give it the training split's texts")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(ordered, trainer)
    return tokenizer


def _model(name: str, vocabulary: Sequence[str]) -> models.Model:
    kind = models.WordPiece if name == "wordpiece" else models.WordLevel
    return kind({token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]")  # noqa: S106


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as JSON, the format that transformers folders hold as ``tokenizer.json``.

    Raises:
        ForgetMIError: it cannot be written.
    """
    write_text(path, tokenizer.to_str(pretty=True))


def load_tokenizer(path: Path | str) -> Tokenizer:
    """A tokenizer from a JSON file, or from a folder that holds ``tokenizer.json``, as transformers folders do.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file /= "tokenizer.json"
    if not file.is_file():
        raise ModelError(
            f"there is no tokenizer {file.name}",
            where=str(file.parent),
            expected="a tokenizer JSON file, or a transformers folder with tokenizer.json",
            fix="a folder with vocab.txt only: load it once with transformers' AutoTokenizer and save_pretrained it",
        )
    try:
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for a bad file
        raise ModelError(f"the tokenizer {file.name} cannot be read: {error}", where=str(file)) from error
