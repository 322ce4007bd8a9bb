"""Modalities from settings and the training split: tokenizers, keywords and synonyms never see another record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import Modality
from forgetmi.registry import Registry


class InputOptions(Protocol):
    """Settings of one modality in the config.

    Attributes:
        kind: of the modality.
        learns: whether :meth:`build` looks at the training split's values; if not, they are not even read.
    """

    kind: ClassVar[str]
    learns: ClassVar[bool]

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality. ``values``: what the training split's records hold, missing ones left out."""
        ...


@dataclass(frozen=True)
class ImageInput:
    """Images.

    Attributes:
        size: side, or (height, width), in pixels.
        channels: 1 or 3.
    """

    kind: ClassVar[str] = "image"
    learns: ClassVar[bool] = False

    size: int | tuple[int, int] = 224
    channels: Literal[1, 3] = 1

    def __post_init__(self) -> None:
        self.build(())

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality; the values play no part."""
        from forgetmi.modalities.image import ImageModality

        return ImageModality(self.size, self.channels)


@dataclass(frozen=True)
class TextInput:
    """Texts.

    Attributes:
        max_length: longest text in tokens.
        tokenizer: a tokenizer's JSON file or a transformers folder; ``None`` trains one on the training split.
        pad_token: the token that fills a batch.
        vocab_size, tokenizer_model, lowercase, min_frequency: of the trained one, see
            :func:`~forgetmi.models.tokenizer.train_tokenizer`.
        n_keywords: how many of the training split's most frequent words the text noise replaces; 0 for none.
        keywords: a file of keywords instead.
        synonyms: a CSV of synonyms; ``None`` computes them from the training split.
        exclude: words that are neither (say, the placeholder of a de-identified source), lower case.
    """

    kind: ClassVar[str] = "text"
    learns: ClassVar[bool] = True

    max_length: int = 128
    tokenizer: Path | None = None
    pad_token: str = "[PAD]"  # noqa: S105 - a vocabulary entry, not a password
    vocab_size: int = 4000
    tokenizer_model: Literal["wordpiece", "wordlevel"] = "wordpiece"
    lowercase: bool = True
    min_frequency: int = 2
    n_keywords: int = 10
    keywords: Path | None = None
    synonyms: Path | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"max_length": 3, "vocab_size": 5, "min_frequency": 1, "n_keywords": 0}
        problems = [
            f"{name} must be at least {low}, not {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        for name in ("tokenizer", "keywords", "synonyms"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                problems.append(f"{name}: there is no {path}")
        if problems:
            raise ConfigError(problems)

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality, its vocabulary and noise words from the training split's texts."""
        from forgetmi.modalities import vocabulary
        from forgetmi.modalities.text import TextModality
        from forgetmi.modalities.text_noise import TextNoise
        from forgetmi.models.tokenizer import load_tokenizer, train_tokenizer

        texts = [text for text in values if isinstance(text, str)]
        if len(texts) < len(values):
            raise DataError(f"{len(values) - len(texts)} values of a text modality are no text")
        if self.tokenizer is not None:
            tokenizer = load_tokenizer(self.tokenizer)
        else:
            tokenizer = train_tokenizer(
                texts,
                self.vocab_size,
                model=self.tokenizer_model,
                lowercase=self.lowercase,
                min_frequency=self.min_frequency,
            )
        keywords: tuple[str, ...] = ()
        if self.keywords is not None:
            keywords = vocabulary.read_keywords(self.keywords)
        elif self.n_keywords:
            keywords = vocabulary.extract_keywords(texts, self.n_keywords, exclude=self.exclude)
        if self.synonyms is not None:
            synonyms = vocabulary.read_synonyms(self.synonyms)
        else:
            synonyms = vocabulary.extract_synonyms(texts, exclude=self.exclude)
        noise = TextNoise(keywords=keywords, synonyms=synonyms)
        return TextModality(tokenizer, self.max_length, pad_token=self.pad_token, noise=noise)


@dataclass(frozen=True)
class DialogueInput:
    """Texts, or prompts with answers, of a language model: see :class:`~forgetmi.modalities.dialogue.DialogueModality`.

    Attributes:
        tokenizer: the model's: a transformers folder or GGUF file; by default that of ``model.path``. Where the model
            has none (``model.config``), one is trained on the training split.
        max_length, on_long, format, system, template_options, padding: see the class.
        vocab_size, min_frequency: of the trained one, see :func:`~forgetmi.models.tokenizer.train_lm_tokenizer`.
    """

    kind: ClassVar[str] = "dialogue"
    reads: ClassVar[tuple[str, ...]] = ("dialogue", "text")
    learns: ClassVar[bool] = True

    tokenizer: Path | None = None
    max_length: int | None = None
    on_long: Literal["error", "cut"] = "error"
    format: str | None = None
    system: str | None = None
    template_options: dict[str, Any] = field(default_factory=dict)
    padding: Literal["right", "left"] = "right"
    vocab_size: int = 4000
    min_frequency: int = 2

    def __post_init__(self) -> None:
        problems = []
        if self.max_length is not None and self.max_length < 2:
            problems.append(f"max_length must be at least 2, not {self.max_length}")
        if self.tokenizer is not None and not self.tokenizer.exists():
            problems.append(f"tokenizer: there is no {self.tokenizer}")
        if self.format is not None and self.format.count("{prompt}") != 1:
            problems.append("format must hold {prompt} once")
        if self.tokenizer is None and self.vocab_size < 260:
            problems.append(f"vocab_size must be at least 260, for every byte has a token, not {self.vocab_size}")
        if problems:
            raise ConfigError(problems)

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality, with the model's tokenizer or one that is trained on these texts."""
        from forgetmi.modalities.dialogue import DialogueModality
        from forgetmi.modalities.lm_tokenizer import LMTokenizer, read_lm_tokenizer
        from forgetmi.models.tokenizer import END, PAD, train_lm_tokenizer

        if self.tokenizer is not None:
            tokenizer = read_lm_tokenizer(self.tokenizer)
        else:
            texts = [
                text
                for value in values
                for text in ([value] if isinstance(value, str) else [value.get("prompt", ""), value.get("answer", "")])
            ]
            trained = train_lm_tokenizer(texts, self.vocab_size, min_frequency=self.min_frequency)
            tokenizer = LMTokenizer(trained, END, PAD)
        return DialogueModality(
            tokenizer,
            self.max_length,
            on_long=self.on_long,
            format=self.format,
            system=self.system,
            template_options=self.template_options,
            padding=self.padding,
        )


@dataclass(frozen=True)
class TokensInput:
    """Token ids with an answer: see :class:`~forgetmi.modalities.tokens.TokenModality`.

    Attributes:
        pad_id: the id that fills a batch.
        max_length: longest sequence; ``None`` for no limit.
    """

    kind: ClassVar[str] = "tokens"
    learns: ClassVar[bool] = False

    pad_id: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        self.build(())

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality; the values play no part."""
        from forgetmi.modalities.tokens import TokenModality

        return TokenModality(self.pad_id, self.max_length)


@dataclass(frozen=True)
class TabularInput:
    """Rows of columns: see :class:`~forgetmi.modalities.tabular.TabularModality`.

    Attributes:
        columns: the columns to use; by default all that ``min_share`` of the training split's records have.
        categories: columns whose numbers are codes. Columns that hold words are categories anyway.
        min_share: of the training split's records, in [0, 1].
        min_count: a level of fewer training records becomes the unknown level.
        clip: largest magnitude of a standardised number.
    """

    kind: ClassVar[str] = "tabular"
    learns: ClassVar[bool] = True

    columns: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    min_share: float = 0.05
    min_count: int = 5
    clip: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.min_share <= 1:
            problems.append(f"min_share must be in [0, 1], not {self.min_share}")
        if self.min_count < 1:
            problems.append(f"min_count must be at least 1, not {self.min_count}")
        if not self.clip > 0:
            problems.append(f"clip must be positive, not {self.clip}")
        if problems:
            raise ConfigError(problems)

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality, with the statistics and levels of the training split's rows."""
        from forgetmi.modalities.tabular import TabularModality

        return TabularModality.fit(
            values,
            categories=self.categories,
            columns=self.columns,
            min_share=self.min_share,
            min_count=self.min_count,
            clip=self.clip,
        )


@dataclass(frozen=True)
class SignalInput:
    """Signals: see :class:`~forgetmi.modalities.signal.SignalModality`.

    Attributes:
        leads, samples: of every signal.
        rate: sampling rate, Hz.
        scaling: ``lead`` or ``none``.
    """

    kind: ClassVar[str] = "signal"
    learns: ClassVar[bool] = False

    leads: int = 12
    samples: int = 1000
    rate: float = 100.0
    scaling: Literal["lead", "none"] = "lead"

    def __post_init__(self) -> None:
        self.build(())

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality; the values play no part."""
        from forgetmi.modalities.signal import SignalModality

        return SignalModality(self.leads, self.samples, self.rate, scaling=self.scaling)


@dataclass(frozen=True)
class VolumeInput:
    """Volumes: see :class:`~forgetmi.modalities.volume.VolumeModality`.

    Attributes:
        size: side, or (depth, height, width), in voxels.
    """

    kind: ClassVar[str] = "volume"
    learns: ClassVar[bool] = False
    channels: ClassVar[int] = 1

    size: int | tuple[int, int, int] = 64

    def __post_init__(self) -> None:
        self.build(())

    def build(self, values: Sequence[Any]) -> Modality:
        """The modality; the values play no part."""
        from forgetmi.modalities.volume import VolumeModality

        return VolumeModality(self.size)


INPUTS = Registry(
    "modality kind",
    {
        "dialogue": "forgetmi.inputs:DialogueInput",
        "image": "forgetmi.inputs:ImageInput",
        "signal": "forgetmi.inputs:SignalInput",
        "tabular": "forgetmi.inputs:TabularInput",
        "text": "forgetmi.inputs:TextInput",
        "tokens": "forgetmi.inputs:TokensInput",
        "volume": "forgetmi.inputs:VolumeInput",
    },
)


def kinds_read(modality: Any) -> tuple[str, ...]:
    """The kinds of values that a modality, or its settings, can read: its own, if it names no more."""
    kinds: tuple[str, ...] = getattr(INPUTS[modality.kind], "reads", (modality.kind,))
    return kinds


def training_noise(modality: Modality, values: Sequence[Any]) -> Modality:
    """A stored modality with the noise words of this training split; they are not stored with a model."""
    from forgetmi.modalities import vocabulary
    from forgetmi.modalities.text import TextModality
    from forgetmi.modalities.text_noise import TextNoise

    if not isinstance(modality, TextModality):
        return modality
    noise = TextNoise(keywords=vocabulary.extract_keywords(values), synonyms=vocabulary.extract_synonyms(values))
    return TextModality(modality.tokenizer, modality.max_length, pad_token=modality.pad_token, noise=noise)
