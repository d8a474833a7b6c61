"""Proof that two checkpoints are the same model."""

from llama_convert.verify.certified import check_certificate, read_certificate, record_verdict
from llama_convert.verify.generate import complete
from llama_convert.verify.levels import LEVELS, verify, verify_levels
from llama_convert.verify.report import Diagnosis, LevelResult, Report, Verdict
from llama_convert.verify.resized import verify_resized

__all__ = [
    "LEVELS",
    "Diagnosis",
    "LevelResult",
    "Report",
    "Verdict",
    "check_certificate",
    "complete",
    "read_certificate",
    "record_verdict",
    "verify",
    "verify_levels",
    "verify_resized",
]
