# STUB
from __future__ import annotations


def read_tokenizer_json(path):
    raise NotImplementedError
