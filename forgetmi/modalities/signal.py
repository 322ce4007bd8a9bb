"""Signals of several leads (an ECG): resampled to one rate, cropped or padded to one length, scaled lead by lead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetmi.errors import ConfigError, DataError
from forgetmi.modalities.base import noise_options


@dataclass(frozen=True)
class SignalNoise:
    """Gaussian noise on every sample: ``x + N(0, sd)``.

    Ours: Forget-MI (arXiv 2506.23145) defines noise for images and texts only.

    Attributes:
        sd: in units of the prepared signal: standard deviations of each lead under ``scaling: lead``, the source's
            own unit (mV) under ``none``. 0 is the identity.

    Raises:
        ConfigError: ``sd`` is negative or not finite.
    """

    kind: ClassVar[str] = "signal"
    sd: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sd) and self.sd >= 0):
            raise ConfigError([f"sd must be finite and at least 0, got {self.sd}"])


class SignalModality:
    """Signals of one number of leads, one length and one sampling rate.

    Args:
        leads: number of leads.
        samples: length at ``rate``. Longer signals lose their end; shorter ones get zeros there.
        rate: sampling rate, Hz.
        scaling: ``lead`` gives each lead of each record mean 0 and standard deviation 1 (a flat lead becomes 0);
            ``none`` keeps the amplitude, which voltage criteria need.
        noise: what :meth:`perturb` applies when a method names none.

    Raises:
        ConfigError: a number below 1, a rate that is not positive, or an unknown scaling.
    """

    kind = "signal"

    def __init__(
        self,
        leads: int = 12,
        samples: int = 1000,
        rate: float = 100.0,
        *,
        scaling: Literal["lead", "none"] = "lead",
        noise: SignalNoise | None = None,
    ) -> None:
        problems = [f"{n} must be at least 1, got {v}" for n, v in (("leads", leads), ("samples", samples)) if v < 1]
        if not (math.isfinite(rate) and rate > 0):
            problems.append(f"rate must be a positive number of Hz, got {rate}")
        if scaling not in ("lead", "none"):
            problems.append(f"scaling must be lead or none, got {scaling!r}")
        if problems:
            raise ConfigError(problems)
        self.leads, self.samples, self.rate, self.scaling = leads, samples, float(rate), scaling
        self._noise = noise or SignalNoise()

    @property
    def default_noise(self) -> SignalNoise:
        """The noise that :meth:`perturb` applies when a method names none."""
        return self._noise

    def prepare(self, value: Any) -> Tensor:
        """A signal as float32 [leads, samples].

        Samples that are NaN (an electrode came off) become the lead's mean over the others; a lead without any sample
        becomes 0. Resampling is polyphase with an antialiasing filter (:func:`scipy.signal.resample_poly`).

        Args:
            value: array [leads, T], taken to be at ``rate``; or ``{"samples": [leads, T], "rate": Hz}``.

        Raises:
            DataError: another form or number of leads, an empty signal, infinite values, a rate that is not positive.
        """
        values, rate = self._parts(value)
        known = ~np.isnan(values)
        count = known.sum(axis=1, keepdims=True)
        mean = np.where(known, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        values = np.where(known, values, mean)
        if rate != self.rate:
            values = _resample(values, mean, rate, self.rate)
        if self.scaling == "lead":
            values = values - values.mean(axis=1, keepdims=True)
            sd = values.std(axis=1, keepdims=True)
            # A flat lead's rounding error must not become a signal.
            flat = sd <= 1e-9 * (1 + np.abs(mean))
            values = np.where(flat, 0.0, values / np.where(flat, 1.0, sd))
        fitted = np.zeros((self.leads, self.samples), dtype=np.float32)
        length = min(self.samples, values.shape[1])
        fitted[:, :length] = values[:, :length]
        return torch.from_numpy(fitted)

    def perturb(
        self,
        read: Callable[[], Any],
        example: Tensor,
        noise: SignalNoise | Mapping[str, Any] | None,
        generator: torch.Generator,
    ) -> Tensor:
        """The prepared example with noise (:class:`SignalNoise`); every lead and sample has its own draw."""
        options = noise_options(SignalNoise, noise, self._noise)
        if options.sd == 0:
            return example
        return torch.empty_like(example).normal_(0.0, options.sd, generator=generator).add_(example)

    def blank(self) -> Tensor:
        """A flat line."""
        return torch.zeros(self.leads, self.samples)

    def collate(self, examples: Sequence[Tensor]) -> Tensor:
        """[B, leads, samples]."""
        return torch.stack(list(examples))

    def to_config(self) -> dict[str, Any]:
        """Settings for :func:`forgetmi.modalities.build_modality`."""
        settings = {"leads": self.leads, "samples": self.samples, "rate": self.rate, "scaling": self.scaling}
        return {"kind": self.kind, **settings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SignalModality:
        """From what :meth:`to_config` returned, less ``kind``."""
        return cls(config["leads"], config["samples"], config["rate"], scaling=config["scaling"])

    def _parts(self, value: Any) -> tuple[NDArray[np.float64], float]:
        given, rate = (value.get("samples"), value.get("rate")) if isinstance(value, Mapping) else (value, self.rate)
        try:
            values, hertz = np.asarray(given, dtype=np.float64), float(rate)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"a signal was given as {type(value).__name__}",
                expected='an array [leads, samples], or {"samples": array, "rate": Hz}',
            ) from error
        if values.ndim != 2 or values.shape[0] != self.leads or values.shape[1] < 1:
            raise DataError(f"a signal has shape {values.shape}", expected=f"[{self.leads}, samples], samples >= 1")
        if np.isinf(values).any():
            raise DataError("a signal holds infinite values", fix="read the file again, or leave the signal out")
        if not (math.isfinite(hertz) and hertz > 0):
            raise DataError(f"a signal has the sampling rate {hertz}", expected="a positive number of Hz")
        return values, hertz


def _resample(
    values: NDArray[np.float64], mean: NDArray[np.float64], rate: float, target: float
) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    ratio = (Fraction(target).limit_denominator(10_000) / Fraction(rate).limit_denominator(10_000)).limit_denominator(
        10_000
    )
    if ratio == 0:
        raise DataError(f"a signal at {rate:g} Hz cannot be resampled to {target:g} Hz")
    # The filter sees zeros beyond the ends: without its mean, a lead does not jump there.
    resampled: NDArray[np.float64] = resample_poly(values - mean, ratio.numerator, ratio.denominator, axis=1) + mean
    return resampled
