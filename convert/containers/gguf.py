# STUB
from __future__ import annotations


def read_gguf(source):
    raise NotImplementedError
