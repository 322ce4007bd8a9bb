"""Explicit randomness: seeds derived by name, and the global RNG borrowed only inside a scope."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *names: object) -> int:
    """A seed for one purpose, from the run's seed and the purpose's names; 62 bits.

    >>> derive_seed(1, "pairs", 3) == derive_seed(1, "pairs", 3) != derive_seed(1, "pairs", 4)
    True
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def numpy_generator(seed: int, *names: object) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *names))


def torch_generator(seed: int, *names: object) -> torch.Generator:
    """A torch generator (CPU) for one purpose."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, *names))
    return generator


@contextmanager
def scoped_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global RNG inside the block and put it back as it was.

    Weight initialisation and dropout draw from the global RNG and take no generator; this is the one place where it
    is touched.

    Args:
        seed: any integer.
        device: a CUDA device whose RNG is seeded and restored too.
    """
    cpu_state = torch.get_rng_state()
    cuda = device if device is not None and device.type == "cuda" else None
    cuda_state = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    try:
        set_scoped_seed(seed, cuda)
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)


def set_scoped_seed(seed: int, device: torch.device | None = None) -> None:
    """Re-seed inside a :func:`scoped_seed` block (the trainer does so at every step, so that a resumed run draws what
    an unbroken one draws).
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
