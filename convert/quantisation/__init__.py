"""Quantised weights read into single precision. Numpy only, no files."""

from __future__ import annotations

from llama_convert.convert.quantisation.affine import decode_affine
from llama_convert.convert.quantisation.decoding import DECODERS, decode
from llama_convert.convert.quantisation.scaled import decode_scaled

__all__ = ["DECODERS", "decode", "decode_affine", "decode_scaled"]
