"""A checkpoint as other libraries run it: their logits held against those of our own forward pass on the same files.

The one place that imports such libraries at run time, because the user asks for one by name.
"""

from llama_convert.verify.against.check import LIBRARIES, NAME, check_against, verify_against
from llama_convert.verify.against.library import Library

__all__ = ["LIBRARIES", "NAME", "Library", "check_against", "verify_against"]
