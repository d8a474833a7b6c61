"""llama.cpp, as xllamacpp's server: the ids of texts, and log-probabilities after every prefix of the prompt."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from question import answer

LARGEST = 4000  # log-probabilities asked for at each position: all 128,256 would take a second each
# What is sampled is thrown away, but must be a whole character: after half of one the server tells nothing. The
# bias forces an "A" and leaves the log-probabilities alone, which are taken before it.
SAMPLED = [[32, 1e6]]
# A proxy of the environment must not stand between this process and its own server.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    server = xllamacpp.Server(parameters(path))  # held until the end: it stops when collected
    address = server.listening_address
    vocabulary = ask(address, "/v1/models", None)["data"][0]["meta"]["n_vocab"]
    tokens = question["tokens"]
    scores = np.full((len(tokens), vocabulary), np.nan, dtype=np.float32)
    for position in range(len(tokens)):
        for entry in largest(address, tokens[: position + 1]):
            scores[position, entry["id"]] = entry["logprob"]
    ids = [ask(address, "/tokenize", {"content": text, "add_special": True})["tokens"] for text in question["texts"]]
    return scores, {"ids": ids}


def parameters(path: Path) -> xllamacpp.CommonParams:
    """Everything that rounds is off: half-precision caches, fused attention, repacked weights."""
    found = xllamacpp.CommonParams()
    found.model.path = str(path)
    found.n_ctx = 512
    found.n_gpu_layers = 0
    found.fit_params = False
    found.warmup = False
    found.cpuparams.n_threads = 1
    found.cache_type_k = found.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    found.no_extra_bufts = True  # on processors with AMX these read quantised weights past their end
    return found


def largest(address: str, tokens: list[int]) -> list[dict[str, Any]]:
    """The tokens that may follow, most likely first, with id and logprob."""
    wanted = {"n_predict": 1, "n_probs": LARGEST, "logit_bias": SAMPLED, "temperature": 0.0, "cache_prompt": False}
    return ask(address, "/completion", {"prompt": tokens, **wanted})["completion_probabilities"][0]["top_logprobs"]


def ask(address: str, path: str, values: dict[str, Any] | None) -> Any:
    body = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
    with OPENER.open(request) as response:
        return json.load(response)


if __name__ == "__main__":
    answer(judge)
