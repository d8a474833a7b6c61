"""Weights as MLX quantises them: small integers, a scale and a bias for every group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.errors import CheckpointError

CHUNK = 1 << 16  # elements decoded at a time

# Bits of an integer that MLX packs.
BITS = (2, 3, 4, 5, 6, 8)


def decode_affine(
    packed: NDArray[np.uint32], scales: NDArray[np.float32], biases: NDArray[np.float32], bits: int, group: int
) -> NDArray[np.float32]:
    """Integer * scale + bias in single precision, (rows, words) to (rows, words * 32 / bits).

    packed: whole rows; the integers follow each other bit by bit, from the lowest bit of the first byte on.
    scales, biases: (rows, elements / group). bits: one of BITS. group: elements that share a scale.
    The product and the sum are each rounded to single precision; MLX's kernels round to the type of the scales.
    Raises CheckpointError when shapes and numbers do not fit together.
    Memory: the result, and a few hundred KiB. Source: mlx/backend/cpu/quantized.cpp.
    """
    rows, elements = len(packed), packed.shape[1] * 32 // max(bits, 1)
    groups = elements // max(group, 1)
    fits = bits in BITS and packed.shape[1] * 32 == elements * bits and elements == groups * group
    if not fits or scales.shape != (rows, groups) or biases.shape != (rows, groups):
        raise CheckpointError(
            f"{packed.shape} words of {bits}-bit integers in groups of {group} do not fit scales {scales.shape}"
            f" and biases {biases.shape}",
            advice="The tensors, or the bits and group_size of the configuration, are another checkpoint's.",
        )
    decoded = np.empty((rows, groups, group), np.float32)
    step = max(CHUNK // max(elements, 1), 1)
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        part = _unpacked(packed[piece], bits).reshape(-1, groups, group)
        np.multiply(part, scales[piece, :, None], out=decoded[piece])
        decoded[piece] += biases[piece, :, None]
    return decoded.reshape(rows, elements)


def _unpacked(packed: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """The integers, a byte each: eight of them fill as many bytes as one has bits, whatever that is.

    In words of eight bytes the upper four integers move to the upper half, then of each half the upper two to
    its upper half, then of each quarter the upper one.
    """
    words = _words(packed, bits)
    for count in (4, 2, 1):
        lower = sum(((1 << count * bits) - 1) << start for start in range(0, 64, 16 * count))
        moved = words << np.uint64(count * (8 - bits))
        moved &= np.uint64(lower << 8 * count)
        words &= np.uint64(lower)
        words |= moved
    return words.view(np.uint8)


def _words(packed: NDArray[np.uint32], bits: int) -> NDArray[np.uint64]:
    """Eight integers in the lowest bits of a word."""
    stored = np.ascontiguousarray(packed).view(np.uint8).reshape(-1, bits)
    words = np.zeros((len(stored), 8), np.uint8)
    for index in range(bits):
        words[:, index] = stored[:, index]
    return words.reshape(-1).view("<u8")
