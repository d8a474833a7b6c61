"""Proof that two checkpoints are the same model."""

from llama_convert.verify.answers import Answer
from llama_convert.verify.certified import check_certificate, made_of, read_certificate, record_verdict
from llama_convert.verify.levels import LEVELS, read_sides, verify, verify_levels
from llama_convert.verify.llama import Llama, load
from llama_convert.verify.past import Past
from llama_convert.verify.report import Diagnosis, LevelResult, Report, Verdict
from llama_convert.verify.resized import verify_resized
from llama_convert.verify.sampling import Sampling

__all__ = [
    "LEVELS",
    "Answer",
    "Diagnosis",
    "LevelResult",
    "Llama",
    "Past",
    "Report",
    "Sampling",
    "Verdict",
    "check_certificate",
    "load",
    "made_of",
    "read_certificate",
    "read_sides",
    "record_verdict",
    "verify",
    "verify_levels",
    "verify_resized",
]
