"""Checkpoints in, checkpoints out: containers, formats, the plan, and the run."""

from __future__ import annotations

from llama_convert.convert.architecture import LlamaConfig
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.conversion import Conversion, convert_checkpoint, plan_conversion
from llama_convert.convert.errors import CheckpointError, ConvertError, SpaceError, UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.inspection import Inspection, inspect_checkpoint
from llama_convert.convert.origin import Origin
from llama_convert.convert.outputs import Request
from llama_convert.convert.plan import Plan
from llama_convert.convert.resizing import pad_change, resize_change

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Conversion",
    "ConvertError",
    "Inspection",
    "LlamaConfig",
    "Origin",
    "Plan",
    "Request",
    "SpaceError",
    "UsageError",
    "convert_checkpoint",
    "inspect_checkpoint",
    "open_checkpoint",
    "pad_change",
    "plan_conversion",
    "resize_change",
]
