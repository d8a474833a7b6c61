"""llama.cpp on a GGUF file, as the package xllamacpp brings it: a server in this process, asked without a network."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType, TensorSlice
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.judges import open_judge
from llama_convert.verify.prompts import Prompt

# It tells probabilities only after the end of a prompt: one request, from its start, for each place asked about.
_PLACES = 12
# Log-probabilities to tell at each place, the highest: all 128,256 of Llama 3 would take 4 seconds.
_LARGEST = 4000
_ERROR = " E "  # in a line of its log


def _answers(checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> Iterator[Answer]:
    """Memory: the file, mapped, and the caches of the longest prompt."""
    import xllamacpp

    letter, rows = _letter(checkpoint), checkpoint.config.vocab_size
    with _own_words():
        server = xllamacpp.Server(_parameters(xllamacpp, checkpoint, max(len(prompt.tokens) for prompt in prompts)))
    for prompt in prompts:
        at = places(len(prompt.tokens))
        found = [server.handle_completions(_request(prompt.tokens[: place + 1], rows, letter)) for place in at]
        yield Answer(at=at, scores=torch.stack([_scores(answer, rows) for answer in found]))


def places(length: int) -> tuple[int, ...]:
    """Where in a prompt of that length to ask, the first and the last included."""
    count = min(_PLACES, length)
    return tuple(sorted({round(step * (length - 1) / max(count - 1, 1)) for step in range(count)}))


def _parameters(xllamacpp: Any, checkpoint: Checkpoint, longest: int) -> Any:
    """Everything that rounds is off: half-precision caches, fused attention, repacked weights."""
    found = xllamacpp.CommonParams()
    found.model.path = str(checkpoint.files[0].path)
    found.n_ctx = longest + 8  # and the token that is sampled
    found.n_parallel = 1
    found.n_gpu_layers = 0
    found.fit_params = False
    found.warmup = False
    found.verbosity = 1  # errors only
    found.cpuparams.n_threads = torch.get_num_threads()
    found.cache_type_k = found.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    found.no_extra_bufts = True  # on processors with AMX these read quantised weights past their end
    return found


def _letter(checkpoint: Checkpoint) -> int:
    """A token that is a character: after half of one the server tells nothing."""
    judge = open_judge(checkpoint)
    special = set(judge.special.values())
    return next(
        number
        for number, text in sorted(judge.tokens.items())
        if number not in special and len(text) == 1 and text.isalpha() and text.isascii()
    )


def _request(tokens: Sequence[int], rows: int, letter: int) -> dict[str, Any]:
    """For the highest probabilities after these. What is sampled is thrown away: the bias makes it a letter.

    The probabilities are taken before that.
    """
    return {
        "prompt": list(tokens),
        "max_tokens": 1,
        "logprobs": min(rows, _LARGEST),
        "logit_bias": [[letter, 1e6]],
        "temperature": 0.0,
        "cache_prompt": False,
    }


def _scores(answer: Mapping[str, Any], rows: int) -> Tensor:
    """Log-probabilities, (vocab,), from what the server answered. ValueError: it told fewer than it was asked for."""
    if "choices" not in answer:
        raise ValueError(str(answer.get("error", answer)))
    told = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = {entry["id"]: entry["logprob"] for entry in told}
    if len(found) < min(rows, _LARGEST) or not 0 <= min(found) <= max(found) < rows:
        raise ValueError(f"it tells the probabilities of {len(found):,} tokens, the vocabulary has {rows:,}")
    scores = torch.full((rows,), -torch.inf)
    scores[list(found)] = torch.tensor(list(found.values()))
    return scores


@contextmanager
def _own_words() -> Iterator[None]:
    """Where it raises, the reason is not in the exception but in what llama.cpp prints on stderr: put into one."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except RuntimeError as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
            said = [line.partition(_ERROR)[2] for line in lines if _ERROR in line]
            raise RuntimeError(said[0] if said else str(error)) from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _in_float32(checkpoint: Checkpoint) -> bool:
    """llama.cpp rounds what it multiplies a matrix with to the matrix's own type, or to 8 bits."""
    pieces = [piece for parts in checkpoint.parts.values() for piece in parts.pieces if len(piece.shape) > 1]
    return all(isinstance(piece, TensorSlice) and piece.dtype is DType.FLOAT32 for piece in pieces)


LLAMA_CPP = Library(
    name="llama-cpp",
    module="xllamacpp",
    package="xllamacpp",
    install="pip install xllamacpp",
    reads=("gguf",),
    quantised=True,
    log_probabilities=True,
    exact=_in_float32,
    answers=_answers,
)
