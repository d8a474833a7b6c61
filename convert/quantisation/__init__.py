"""Quantised weights read into single precision, and written as ggml's Q8_0 and Q4_0. Numpy only, no files."""

from __future__ import annotations

from llama_convert.convert.quantisation.affine import decode_affine
from llama_convert.convert.quantisation.decoding import DECODERS, decode
from llama_convert.convert.quantisation.encoding import ENCODERS, encode, encode_block
from llama_convert.convert.quantisation.scaled import decode_scaled

__all__ = ["DECODERS", "ENCODERS", "decode", "decode_affine", "decode_scaled", "encode", "encode_block"]
