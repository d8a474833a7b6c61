# STUB
from __future__ import annotations


def decode(*a):
    raise NotImplementedError


def encode(*a):
    raise NotImplementedError


def decode_affine(*a, **k):
    raise NotImplementedError


def decode_scaled(*a):
    raise NotImplementedError
