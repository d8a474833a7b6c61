"""Text from any checkpoint as it stands, by the reference forward pass: slow, and for small models."""

from __future__ import annotations

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.forward import FLOAT32, kept, logits
from llama_convert.verify.judges import open_judge
from llama_convert.verify.tokenizer_judges import Judge

# After these a model has no more to say.
_ENDS = ("</s>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")


def complete(checkpoint: Checkpoint, prompt: str, max_new_tokens: int) -> str:
    """What the model writes behind the prompt, always taking its likeliest token.

    Stops at an end token, after max_new_tokens, or where the model's context is full.
    Memory: the whole model in float32. Time: each token runs through it with all those before.
    """
    judge, load = open_judge(checkpoint), kept(FLOAT32)
    start = judge.encode([prompt])[0]
    ids, ends = list(start), _ends(judge)
    while len(ids) < min(len(start) + max_new_tokens, checkpoint.config.context):
        scores = logits(checkpoint, ids, load, at=[-1])
        ids.append(int(scores[0].argmax()))
        if ids[-1] in ends:
            break
    return _text(judge, ids).removeprefix(_text(judge, start))


def _ends(judge: Judge) -> set[int]:
    return {judge.special[name] for name in _ENDS if name in judge.special}


def _text(judge: Judge, ids: list[int]) -> str:
    """The ids in words, without special tokens; decoded together, for a character may be cut over several."""
    special = set(judge.special.values())
    return judge.decode([number for number in ids if number not in special])
