"""A checkpoint that writes: in memory, with its tokenizer, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError
from llama_convert.verify.answers import Answer, Answering
from llama_convert.verify.decoding import all_logits
from llama_convert.verify.generate import check_prompts
from llama_convert.verify.memory import check_memory, told
from llama_convert.verify.model import Model, load_model
from llama_convert.verify.opened import Opened, open_source
from llama_convert.verify.past import Past
from llama_convert.verify.sampling import GREEDY, Sampling, check_sampling
from llama_convert.verify.tokenizer_judges import Judge

# Told each piece of text as it becomes certain: the answer's number, and the text.
Hear = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    """A model and its tokenizer. ends: the ids at which it has no more to say. compiled: as `next_logits` has it."""

    checkpoint: Checkpoint
    model: Model
    tokenizer: Judge
    ends: frozenset[int]
    compiled: bool = False

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stops: Sequence[str] = (),
        num_return_sequences: int = 1,
        batch_size: int = 8,
        hear: Hear = lambda number, text: None,
        past: Past | None = None,
    ) -> list[Answer]:
        """What the model writes behind each prompt, texts or ids.

        num_return_sequences: answers to each prompt; they stand together. batch_size: answers written at a time;
        what a seed draws does not depend on it. hear: told of every piece of text. past: given again with
        the next turn of a conversation, only what is new goes through the model.
        Raises UsageError for what is wrong with the prompts, all of them, before anything is computed.
        """
        check_request(sampling, stops, max_new_tokens, num_return_sequences, batch_size)
        encoded = [self._ids(prompt) for prompt in prompts for _ in range(num_return_sequences)]
        check_prompts(self.model.config, encoded)
        answers: list[Answer] = []
        for start in range(0, len(encoded), batch_size):
            some = encoded[start : start + batch_size]
            batch = self._answering(some, start, max_new_tokens, sampling, stops, past)
            with told():
                for number, piece in batch.pieces():
                    hear(start + number, piece)
            answers += batch.answers()
        return answers

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stops: Sequence[str] = (),
        past: Past | None = None,
    ) -> Iterator[str]:
        """The text behind one prompt, piece by piece as it becomes certain. The options are those of `generate`."""
        check_request(sampling, stops, max_new_tokens)
        for _, piece in self._answering([self._ids(prompt)], 0, max_new_tokens, sampling, stops, past).pieces():
            yield piece

    def logits(self, ids: Sequence[int]) -> Tensor:
        """The logits after each of the ids, (tokens, vocab), float32."""
        check_prompts(self.model.config, [ids])
        with torch.inference_mode():
            return all_logits(self.model, torch.tensor([list(ids)], device=self.model.device))[0]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the begin token in front."""
        return self.tokenizer.encode([text])[0]

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _answering(
        self,
        prompts: list[list[int]],
        first: int,
        length: int,
        sampling: Sampling,
        stops: Sequence[str],
        past: Past | None,
    ) -> Answering:
        return Answering(
            model=self.model,
            judge=self.tokenizer,
            ends=self.ends,
            compiled=self.compiled,
            prompts=prompts,
            first=first,
            length=length,
            sampling=sampling,
            stops=stops,
            past=past,
        )


def load(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    quantise: DType | None = None,
    tokenizer: Path | None = None,
    ends: Sequence[str] = (),
    compile: bool = False,
    llama_version: str | None = None,
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> Llama:
    """The checkpoint in this folder or file, ready to write; it is run as it stands.

    The options are those of `open_source` and `load_opened`, and so are the errors.
    """
    opened = open_source(
        source,
        device=device,
        dtype=dtype,
        quantise=quantise,
        tokenizer=tokenizer,
        ends=ends,
        llama_version=llama_version,
    )
    return load_opened(opened, compile=compile, on_progress=on_progress)


def load_opened(
    opened: Opened, *, compile: bool = False, on_progress: Callable[[int], None] = lambda nbytes: None
) -> Llama:
    """The model in memory.

    compile: have torch compile a step, which takes a minute at the first tokens. on_progress: given the bytes of each
    weight as it is loaded.
    Raises SpaceError where the memory does not suffice.
    """
    check_memory(opened.checkpoint, opened.holding)
    with told():
        model = load_model(opened.checkpoint, opened.holding, on_progress)
    return Llama(
        checkpoint=opened.checkpoint,
        model=model,
        tokenizer=opened.tokenizer,
        ends=opened.ends,
        compiled=compile,
    )


def check_request(
    sampling: Sampling,
    stops: Sequence[str] = (),
    max_new_tokens: int = 1,
    num_return_sequences: int = 1,
    batch_size: int = 1,
) -> None:
    """UsageError with everything that cannot be asked for."""
    check_sampling(sampling)
    numbers = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "batch_size": batch_size,
    }
    problems = [f"{name} {value}: wanted 1 or more" for name, value in numbers.items() if value < 1]
    if "" in stops:
        problems.append("an empty stop text is in every text")
    if num_return_sequences > 1 and sampling.greedy:
        problems.append(f"{num_return_sequences} answers to a prompt would all be the same: nothing is drawn")
    if problems:
        raise UsageError("This cannot be written", problems=problems, advice="Correct the options.")
