"""Rotary frequencies, and what Llama 3.1's scaling makes of them.

Sources: meta-llama/llama-models models/llama3/model.py (apply_scaling), llama.cpp (rope_freqs holds the divisors).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.architecture import RopeScaling

Numbers = NDArray[np.float64]

# Of every released model.
LOW_FREQUENCY_FACTOR, HIGH_FREQUENCY_FACTOR, ORIGINAL_CONTEXT = 1.0, 4.0, 8192


def released_scaling(factor: float | None, original_context: int = ORIGINAL_CONTEXT) -> RopeScaling | None:
    """Llama 3.1's scaling with this factor; None for None. All releases share the other three numbers."""
    if factor is None:
        return None
    return RopeScaling(
        factor=factor,
        low_frequency_factor=LOW_FREQUENCY_FACTOR,
        high_frequency_factor=HIGH_FREQUENCY_FACTOR,
        original_context=original_context,
    )


def frequencies(theta: float, head_dim: int) -> Numbers:
    """Radians by which each rotated pair turns from one position to the next, unscaled, (head_dim / 2,)."""
    found: Numbers = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    return found


def divisors(scaling: RopeScaling | None, theta: float, head_dim: int) -> Numbers:
    """What scaling divides each frequency by, (head_dim / 2,): 1 for short wavelengths, the factor for long ones."""
    if scaling is None:
        return np.ones(head_dim // 2)
    turns = scaling.original_context * frequencies(theta, head_dim) / (2 * np.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    unchanged = np.clip((turns - low) / (high - low), 0.0, 1.0)
    found: Numbers = 1 / ((1 - unchanged) / scaling.factor + unchanged)
    return found
