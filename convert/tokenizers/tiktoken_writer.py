# STUB
from __future__ import annotations


def write_tiktoken(path, vocabulary):
    raise NotImplementedError
