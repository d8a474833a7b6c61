"""Where and in which precision logits are computed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from llama_convert.convert.errors import UsageError

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """device: as torch calls it. name: as its maker does. precision: of PRECISIONS; None for what the model needs."""

    device: str
    name: str
    precision: str | None = None

    @property
    def has_float64(self) -> bool:
        """Apple's GPUs have not."""
        return self.device != "mps"


def choose(device: str = "auto", precision: str | None = None) -> Computing:
    """What to compute with; "auto" is the GPU where there is one. AMD's GPUs are called cuda, as in torch.

    Raises UsageError: unknown names, a device that this machine or this torch has not, float64 where there is none.
    """
    if device not in DEVICES:
        raise UsageError(f"No device is called {device!r}", advice=f"Devices are {', '.join(DEVICES)}.")
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"Nothing computes in {precision!r}", advice=f"Choose {', '.join(PRECISIONS)}.")
    there = _present()
    found = there[0] if device == "auto" else device
    if found not in there:
        raise UsageError(
            f"There is no {device} device here, torch {torch.__version__} has {', '.join(there)}",
            advice="Leave --device away, or install the torch that is made for the device.",
        )
    computing = Computing(device=found, name=_name(found), precision=precision)
    if precision == "float64" and not computing.has_float64:
        raise UsageError(f"{computing.name} cannot compute in float64", advice="Add --device cpu.")
    return computing


@contextmanager
def exact() -> Iterator[None]:
    """Within, float32 is float32: nothing is rounded to TensorFloat-32 or bfloat16 on the way, no gradients."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def _present() -> list[str]:
    found = ["cuda"] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def _name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return "Apple GPU" if device == "mps" else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
