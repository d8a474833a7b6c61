"""Older versions of what we work with, each in a throw-away environment: `make compat`.

The tests of the Hub run with the oldest client that we take. Older versions of transformers judge what we write:
every standard case is converted once; Meta's own model gives the reference logits, the newest transformers (this
environment's) the reference ids and chat prompts; each older one must agree with both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import llama_models.llama3
import torch

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from tests.checkpoints import CASES, Case, random_model, write_meta
from tests.meta_reference import GATE, meta_logits, random_tokens, relative_difference

VERSIONS = ("4.47.1", "4.57.6")
OLDEST_CLIENT = "1.31.*"  # the lower bound of pyproject.toml
ROOT = Path(__file__).parents[2]
HUB_TESTS = ("tests/hub",)
POSITIONS = 256
JUDGE = Path(__file__).parent / "judge.py"
TEXTS = [
    "Hello world",
    "  two spaces in front, three behind   ",
    "\ttabs\nand\r\nlines\n\n\n",
    "it 's ok , yes — don't! 1234567 3.14159",
    "việc héllo नमस्ते 你好 世界 שלום 🦙👩‍👩‍👧‍👦 \x00\x07",
    "def f(x):\n    return x ** 2  # half-split\n",
    "",
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who spits?"},
    {"role": "assistant", "content": "A llama."},
    {"role": "user", "content": "Why?"},
]


def main() -> None:
    """Convert, ask every version, print one line for each folder and version; exit 1 where one disagrees.

    `make compat` asks all; `python -m tests.compat.run hub` the Hub's client alone.
    """
    if sys.argv[1:] == ["hub"]:
        with tempfile.TemporaryDirectory(prefix="compat-") as name:
            sys.exit(len(tested_with_client(OLDEST_CLIENT, Path(name))))
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        root = Path(name)
        logits = dict(converted(case, root) for case in CASES) | {"real-tokenizer": real_tokenizer(root)}
        ask(Path(sys.executable), root, "newest")
        bad = [line for version in VERSIONS for line in judged(version, root, logits)]
        bad += tested_with_client(OLDEST_CLIENT, root)
    sys.exit(f"{len(bad)} disagreements" if bad else 0)


def converted(case: Case, root: Path) -> tuple[str, torch.Tensor]:
    """The case's name and Meta's logits; its Hugging Face folder lies under root/hf then."""
    model = case.model()
    source = case.write(root / "meta" / case.name)
    instruct = case.version in ("2", "code", "3", "3.1", "3.2", "3.3")
    plan = plan_conversion(source, request=Request(instruct=instruct), llama_version=case.version)
    folder = root / "hf" / case.name
    folder.parent.mkdir(exist_ok=True)
    convert_checkpoint(plan, folder)
    tokens = random_tokens(model.vocab, POSITIONS)
    ask_for(folder, tokens, instruct)
    return case.name, meta_logits(model, tokens)


def real_tokenizer(root: Path) -> torch.Tensor:
    """A small model with the whole vocabulary of Llama 3, converted with its real tokenizer."""
    model = random_model("3.1", dim=64, heads=4, kv_heads=2, vocab=128256)
    tokenizer = Path(llama_models.llama3.__file__).parent / "tokenizer.model"
    source = write_meta(model, root / "meta" / "real-tokenizer", tokenizer=tokenizer)
    folder = root / "hf" / "real-tokenizer"
    convert_checkpoint(plan_conversion(source, request=Request(instruct=True), llama_version="3.1"), folder)
    tokens = random_tokens(model.vocab, POSITIONS)
    ask_for(folder, tokens, chat=True)
    return meta_logits(model, tokens)


def ask_for(folder: Path, tokens: torch.Tensor, chat: bool) -> None:
    """Leave the questions in the folder."""
    values = {
        "tokens": tokens.flatten().tolist(),
        "texts": TEXTS,
        "ids": [list(range(10, 200)), list(range(300, 500))],
        "chat": CHAT if chat else None,
    }
    (folder / "prompt.json").write_text(json.dumps(values))


def ask(python: Path, root: Path, name: str) -> None:
    """Let that environment's transformers answer, into root/name."""
    (root / name).mkdir()
    subprocess.run([python, JUDGE, root / name, *sorted((root / "hf").iterdir())], check=True, stderr=subprocess.PIPE)


def judged(version: str, root: Path, logits: dict[str, torch.Tensor]) -> list[str]:
    """One printed line for every folder; those that disagree are returned."""
    environment = root / f"transformers-{version}"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    needed = [f"transformers=={version}", "torch==2.13.0", "jinja2"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True, stderr=subprocess.PIPE)
    ask(python, root, version)
    bad = []
    for name, reference in logits.items():
        found, newest = (torch.load(root / by / f"{name}.pt") for by in (version, "newest"))
        difference = relative_difference(reference, found["logits"])
        same = all(found[key] == newest[key] for key in ("ids", "texts", "chat"))
        verdict = "equal" if same else "DIFFER"
        line = f"transformers {found['version']:7} {name:24} logits {difference:.1e}  ids and chat {verdict}"
        print(line, flush=True)
        bad += [line] if difference > GATE or not same else []
    return bad


def tested_with_client(version: str, root: Path) -> list[str]:
    """The tests of the Hub with that client in place of this environment's; the printed line, if they fail."""
    environment = root / "oldest-client"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    for needed in ([f"huggingface_hub=={version}"], ["--no-deps", "--editable", str(ROOT)]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    # Everything else comes from this environment: what is installed in the new one goes before it.
    beside = "; ".join(f"site.addsitedir({path!r})" for path in sys.path if path.endswith("site-packages"))
    inside = next(environment.glob("lib/*/site-packages"))
    (inside / "beside.pth").write_text(f"import site; {beside}\n")
    told = "from importlib.metadata import version; print(version('huggingface_hub'))"
    found = subprocess.check_output([python, "-c", told], text=True).strip()
    tests = subprocess.run([python, "-m", "pytest", *HUB_TESTS], cwd=ROOT, check=False)
    line = f"huggingface_hub {found} {'passes' if tests.returncode == 0 else 'FAILS'}"
    print(line, flush=True)
    return [line] if tests.returncode else []


if __name__ == "__main__":
    main()
