"""The peer of benchmarks.verify: a folder loaded twice in transformers, the same prompts run, the logits compared."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from llama_convert.convert import open_checkpoint
from llama_convert.verify.prompts import Prompt, prompts


def main() -> None:
    """Print the largest difference."""
    folder, device = Path(sys.argv[1]), sys.argv[2]
    sequences = prompts(open_checkpoint(folder))
    first, second = (_logits(folder, sequences, device) for _ in range(2))
    print(max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)))


@torch.inference_mode()
def _logits(folder: Path, sequences: tuple[Prompt, ...], device: str) -> list[torch.Tensor]:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device)
    found = []
    for prompt in sequences:
        tokens, positions = (torch.tensor([ids], device=device) for ids in (prompt.tokens, prompt.positions))
        found.append(model(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens)).logits[0])
    return found


if __name__ == "__main__":
    main()
