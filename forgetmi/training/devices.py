"""One device, or several: accelerate's state, made as a fit needs it."""

from __future__ import annotations

from typing import Literal

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env

Precision = Literal["no", "bf16", "fp16"]


def make_accelerator(device: str | None, precision: Precision) -> Accelerator:
    """Accelerate keeps one state a process, which every Accelerator shares and which refuses a second precision: it is
    made anew where another is needed. So each fit makes its own, and an older trainer gets its own precision back.
    """
    cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")
    moved = PartialState._shared_state.get("_cpu", cpu) != cpu
    if moved or AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state(reset_partial_state=moved)
    # A step need not use every weight: a head that no embedding loss reaches, an encoder whose modality is missing.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[unused])
