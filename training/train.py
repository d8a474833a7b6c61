"""Train the model in `cli/embedded`: `python -m training.train`, a quarter of an hour on two CPU cores.

It exists to be read: a conversion that is wrong anywhere must turn its stories into nonsense. So the model is
trained until its likeliest continuation is a whole little story in good English.
"""

import argparse
import time
from itertools import islice
from math import cos, pi
from pathlib import Path

import torch
from tiktoken import Encoding
from torch import Tensor
from torch.nn import functional

from training.model import Llama, Params, complete
from training.shards import write_checkpoint
from training.stories import stories
from training.tokenizer import BEGIN, END, SPECIAL_TOKENS, make_encoding, train_ranks, write_ranks

RANKS = 768
CONTEXT = 256  # tokens
SHARDS = 2
STORIES_FOR_TOKENIZER = 4000
WARMUP_STEPS = 60
PROMPTS = (
    "Once upon a time",
    "Lola the llama",
    "One sunny morning",
    "There once was",
    "High up in the mountains",
)

# Two heads per key and value, two shards, and a feed-forward width (448) that the multiplier really changes.
PARAMS = Params(
    dim=128,
    n_layers=6,
    n_heads=4,
    n_kv_heads=2,
    vocab_size=RANKS + SPECIAL_TOKENS,
    multiple_of=64,
    ffn_dim_multiplier=1.3,
    norm_eps=1e-5,
    rope_theta=500000.0,
    use_scaled_rope=False,
)


def encode_story(encoding: Encoding, story: str) -> list[int]:
    return encoding.encode(BEGIN + story + END, allowed_special={BEGIN, END})


def pack_rows(encoding: Encoding, seed: int, rows: int) -> Tensor:
    """Stories end to end, (rows, CONTEXT + 1): each row starts with a story, and cuts its last one off.

    No row starts in the middle of a story, because a model in use never does.
    """
    tales = stories(seed)
    packed = torch.empty(rows, CONTEXT + 1, dtype=torch.long)
    for row in packed:
        tokens: list[int] = []
        while len(tokens) <= CONTEXT:
            tokens += encode_story(encoding, next(tales))
        row[:] = torch.tensor(tokens[: CONTEXT + 1])
    return packed


def make_optimizer(model: Llama, peak: float) -> torch.optim.AdamW:
    """AdamW that pulls the matrices towards zero but leaves the norms where they train to."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))


def rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate: up in a line, then down along a cosine to one hundredth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.01 + 0.99 * (1 + cos(pi * progress)) / 2


def loss_of(model: Llama, rows: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def train(model: Llama, rows: Tensor, batch: int, peak: float) -> None:
    """One pass over the rows: no story is seen twice."""
    batches = torch.split(rows, batch)
    optimizer = make_optimizer(model, peak)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, len(batches)))
    started = time.monotonic()
    for step, part in enumerate(batches, start=1):
        loss = loss_of(model, part)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == len(batches):
            seconds = time.monotonic() - started
            print(f"step {step:5} of {len(batches)}  loss {loss.item():.4f}  {seconds:4.0f} s", flush=True)


def print_completions(model: Llama, encoding: Encoding) -> None:
    end = encoding.encode_single_token(END)
    for prompt in PROMPTS:
        tokens = encoding.encode(BEGIN + prompt, allowed_special={BEGIN})
        completed = complete(model, tokens, end, CONTEXT)
        print(f"{len(completed)} tokens: {encoding.decode(completed[1:])}\n")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=Path("cli/embedded"), help="folder to write")
    parser.add_argument("--steps", type=int, default=3600, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=8, help=f"rows of {CONTEXT} tokens in one step")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=3, help="of the stories and of the first weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    ranks = train_ranks(islice(stories(arguments.seed), STORIES_FOR_TOKENIZER), RANKS)
    write_ranks(arguments.output / "tokenizer.model", ranks)
    encoding = make_encoding(ranks)
    model = Llama(PARAMS)
    rows = pack_rows(encoding, arguments.seed, arguments.steps * arguments.batch)
    train(model, rows, arguments.batch, arguments.rate)
    # From here on the weights are what the file holds, so the printed stories are those of the file.
    model.to(torch.bfloat16).to(torch.float32)
    print_completions(model, encoding)
    write_checkpoint(arguments.output, model.to(torch.bfloat16).state_dict(), PARAMS, SHARDS)


if __name__ == "__main__":
    main()
