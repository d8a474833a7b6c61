# STUB
from __future__ import annotations


def write_sentencepiece(path, vocabulary):
    raise NotImplementedError
