"""One side of benchmarks.generate: 64 tokens read and 128 written by one library, timed from within, as JSON.

Arguments: the library (ours, transformers, book), a folder or file, the type computed in, the device, and `compile`.
Tokens are written before those that are timed: whatever is built on the first call is built there.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.generate import NEW_TOKENS, PROMPT_TOKENS

# Gives the tokens behind the prompt, one after the other.
Write = Callable[[list[int], int], Iterator[object]]


def main() -> None:
    """Print seconds to the first token, tokens per second behind it, and memory."""
    library, source, dtype, device = sys.argv[1:5]
    torch.manual_seed(0)
    prompt = torch.randint(0, 100_000, (PROMPT_TOKENS,)).tolist()
    compiled = "compile" in sys.argv[5:]
    with torch.inference_mode():
        write = _LIBRARIES[library](source, getattr(torch, dtype), device, compiled)
        timed(write, prompt, NEW_TOKENS if compiled else 4)  # a program is made for each size of a cache
        first, others, ids = timed(write, prompt, NEW_TOKENS)
    memory = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )
    print(json.dumps({"first": first, "per_second": (NEW_TOKENS - 1) / others, "memory": memory, "ids": ids}))


def timed(write: Write, prompt: list[int], count: int) -> tuple[float, float, list[int]]:
    """Seconds to the first token, seconds from there to the last, and the ids."""
    start = time.perf_counter()
    ids, first = [], 0.0
    for token in write(prompt, count):
        ids.append(int(token))  # waits for a GPU
        first = first or time.perf_counter() - start
    return first, time.perf_counter() - start - first, ids


def ours(source: str, dtype: torch.dtype, device: str, compiled: bool) -> Write:
    """llama-convert's engine; as its peers, without a tokenizer."""
    from llama_convert.convert import open_checkpoint
    from llama_convert.verify.generate import write
    from llama_convert.verify.model import Holding, load_model
    from llama_convert.verify.sampling import GREEDY

    model = load_model(open_checkpoint(Path(source)), Holding(dtype=dtype, device=device))
    return lambda prompt, count: (
        ids[0] for ids in write(model, [prompt], GREEDY, count, lambda *_: False, compiled=compiled)
    )


def transformers(source: str, dtype: torch.dtype, device: str, compiled: bool) -> Write:
    """Its forward pass with its cache, in a loop as its own generate has, without what that checks each time."""
    from transformers import DynamicCache, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=True).to(device)

    def write(prompt: list[int], count: int) -> Iterator[object]:
        cache, ids = DynamicCache(config=model.config), torch.tensor([prompt], device=device)
        for _ in range(count):
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            yield ids

    return write


def book(source: str, dtype: torch.dtype, device: str, compiled: bool) -> Write:
    """The book's model with keys and values kept."""
    from llms_from_scratch.kv_cache.generate import generate_text_simple_stream
    from llms_from_scratch.kv_cache.llama3 import LLAMA32_CONFIG_1B, Llama3Model

    from llama_convert.convert import open_checkpoint
    from llama_convert.convert.architecture import Role, Weight
    from llama_convert.convert.formats.scratch import SCRATCH
    from llama_convert.verify.reading import read

    checkpoint = open_checkpoint(Path(source))
    with torch.device("meta"):
        model = Llama3Model({**LLAMA32_CONFIG_1B, "dtype": dtype, "context_length": 8192})
    model = model.to_empty(device=device)
    state = {SCRATCH.name_of(weight): read(parts.pieces[0]).to(dtype) for weight, parts in checkpoint.parts.items()}
    if Weight(Role.HEAD) not in checkpoint.parts:
        state["out_head.weight"] = state["tok_emb.weight"]
    model.load_state_dict(state)
    from llms_from_scratch.kv_cache.llama3 import compute_rope_params

    model.cos, model.sin = (
        table.to(device) for table in compute_rope_params(64, 500_000.0, 8192, LLAMA32_CONFIG_1B["rope_freq"])
    )
    if compiled:
        model.compile()
    return lambda prompt, count: generate_text_simple_stream(model, torch.tensor([prompt], device=device), count)


_LIBRARIES = {"ours": ours, "transformers": transformers, "book": book}

if __name__ == "__main__":
    main()
