"""Runs in an environment with an older transformers: what it makes of the folders it is given.

`judge.py OUT FOLDER...`: for each folder, logits at all positions of the tokens in its `prompt.json`, and the
ids of the texts there, written to OUT/<folder name>.pt. Imports nothing of this project.
"""

import json
import sys
from pathlib import Path

import torch
import transformers


def main() -> None:
    torch.set_num_threads(1)
    out, *folders = map(Path, sys.argv[1:])
    for folder in folders:
        prompt = json.loads((folder / "prompt.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype=torch.float32, attn_implementation="eager"
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            logits = model(torch.tensor([prompt["tokens"]])).logits[0]
        found = {
            "version": transformers.__version__,
            "logits": logits,
            "ids": [tokenizer(text)["input_ids"] for text in prompt["texts"]],
            "texts": [tokenizer.decode(ids, skip_special_tokens=True) for ids in prompt["ids"]],
            "chat": tokenizer.apply_chat_template(prompt["chat"], tokenize=False) if prompt["chat"] else None,
        }
        torch.save(found, out / f"{folder.name}.pt")


if __name__ == "__main__":
    main()
