"""A checkpoint that writes: opened, in memory, with its tokenizer, whatever its format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.decoding import all_logits
from llama_convert.verify.devices import choose
from llama_convert.verify.generate import check_prompts, write
from llama_convert.verify.judges import open_judge
from llama_convert.verify.model import Holding, Model, load_model
from llama_convert.verify.reading import torch_type
from llama_convert.verify.sampling import GREEDY, Sampling, check_sampling
from llama_convert.verify.speech import Transcript, end_tokens
from llama_convert.verify.tokenizer_judges import Judge

# Told each piece of text as it becomes certain: the prompt's number, and the text.
Hear = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was written behind one prompt.

    ids: the new tokens, an end token included. ended: "end token", "stop", "length" or "context".
    first_token, seconds: time to the first new token, and to the last.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    ended: str
    first_token: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens behind the first one, which waits for the prompt; 0 where there are none."""
        return (len(self.ids) - 1) / (self.seconds - self.first_token) if len(self.ids) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    """A model and its tokenizer. ends: the ids at which it has no more to say."""

    checkpoint: Checkpoint
    model: Model
    tokenizer: Judge
    ends: frozenset[int]

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stops: Sequence[str] = (),
        batch_size: int = 8,
        hear: Hear = lambda number, text: None,
    ) -> list[Answer]:
        """What the model writes behind each prompt, texts or ids, so many of them at a time.

        Raises UsageError for what is wrong with the prompts, all of them, before anything is computed.
        """
        check_sampling(sampling)
        encoded = [self.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        check_prompts(self.model, encoded)
        answers: list[Answer] = []
        for start in range(0, len(encoded), batch_size):
            batch = _Batch(self, encoded[start : start + batch_size], start, stops, hear)
            answers += batch.run(max_new_tokens, sampling)
        return answers

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """The text behind one prompt, piece by piece as it becomes certain."""
        check_sampling(sampling)
        ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        transcript = Transcript(self.tokenizer, ids, stops)
        for (token,) in write(self.model, [ids], sampling, max_new_tokens, lambda _, written: transcript.stopped):
            if token is None or token in self.ends:
                break
            if piece := transcript.add(token):
                yield piece
            if transcript.stopped:
                break
        if piece := transcript.finish():
            yield piece

    def logits(self, ids: Sequence[int]) -> Tensor:
        """The logits after each of the ids, (tokens, vocab), float32."""
        check_prompts(self.model, [ids])
        with torch.inference_mode():
            return all_logits(self.model, torch.tensor([list(ids)], device=self.model.device))[0]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the begin token in front."""
        return self.tokenizer.encode([text])[0]


def load(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantise: DType | None = None,
    tokenizer: Path | None = None,
    llama_version: str | None = None,
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> Llama:
    """The checkpoint in this folder or file, ready to write; it is run as it stands.

    dtype: float32, bfloat16 or float16 to compute in; None for the model's own. quantise: the type in which
    matrices are held.
    Raises UsageError: unknown names. CheckpointError: what opening it raises.
    """
    checkpoint = open_checkpoint(Path(source), llama_version)
    compute = _compute(dtype, checkpoint)
    model = load_model(checkpoint, Holding(dtype=compute, device=choose(device).device, quantise=quantise), on_progress)
    judge = open_judge(checkpoint)
    return Llama(checkpoint=checkpoint, model=model, tokenizer=judge, ends=end_tokens(checkpoint, judge))


def _compute(name: str | None, checkpoint: Checkpoint) -> torch.dtype:
    known = {dtype.label: dtype for dtype in (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)}
    if name is not None and name not in known:
        raise UsageError(f"Nothing computes in {name!r}", advice=f"Choose {', '.join(known)}.")
    return torch_type(known[name] if name else checkpoint.dtype)


class _Batch:
    """Several prompts that are answered in step."""

    def __init__(self, llama: Llama, prompts: list[list[int]], first: int, stops: Sequence[str], hear: Hear) -> None:
        self._llama = llama
        self._prompts = prompts
        self._first = first
        self._hear = hear
        self._transcripts = [Transcript(llama.tokenizer, prompt, stops) for prompt in prompts]
        self._ids: list[list[int]] = [[] for _ in prompts]
        self._ended = [""] * len(prompts)
        self._times = [[0.0, 0.0] for _ in prompts]
        self._start = time.perf_counter()

    def run(self, max_new_tokens: int, sampling: Sampling) -> list[Answer]:
        for _ in write(self._llama.model, self._prompts, sampling, max_new_tokens, self._over, first=self._first):
            pass
        return [self._answer(number, max_new_tokens) for number in range(len(self._prompts))]

    def _over(self, number: int, written: Sequence[int]) -> bool:
        now, transcript = time.perf_counter() - self._start, self._transcripts[number]
        self._times[number] = [self._times[number][0] or now, now]
        self._ids[number] = list(written)
        if written[-1] in self._llama.ends:
            self._ended[number] = "end token"
        elif piece := transcript.add(written[-1]):
            self._hear(self._first + number, piece)
        if transcript.stopped:
            self._ended[number] = "stop"
        return bool(self._ended[number])

    def _answer(self, number: int, max_new_tokens: int) -> Answer:
        transcript, ids = self._transcripts[number], tuple(self._ids[number])
        if rest := transcript.finish():
            self._hear(self._first + number, rest)
        first, last = self._times[number]
        return Answer(
            prompt=tuple(self._prompts[number]),
            ids=ids,
            text=transcript.text,
            ended=self._ended[number] or ("length" if len(ids) == max_new_tokens else "context"),
            first_token=first,
            seconds=last,
        )
