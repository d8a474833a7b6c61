"""Who may import whom, who may print, and what must not be known where: read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "convert", "hub", "verify")
OURS = "llama_convert."
# Prefixes of our modules that a folder may import beside its own; the longest matching folder counts.
ALLOWED = {
    "cli": ("cli", "convert", "hub", "verify"),
    "verify": ("verify", "convert"),
    "hub": ("hub", "convert.containers", "convert.digests", "convert.errors", "convert.json_files"),
    "convert": ("convert",),
    "convert.containers": ("convert.containers", "convert.errors"),
}
ARBITERS = {"transformers", "llama_models", "gguf", "llms_from_scratch", "fairscale", "xllamacpp"}
# Those that a user may ask for by name: imported there only, and only when asked for.
ASKED = {
    "verify.against.transformers": {"transformers"},
    "verify.against.scratch": {"llms_from_scratch"},
    "verify.against.llama_cpp": {"xllamacpp"},
}
SHOWING = {"typer", "tqdm", "rich", "click"}
HEAVY = {"torch", "huggingface_hub", "tokenizers", "tiktoken", "sentencepiece", "safetensors"}
# The converter's own way to move and join rows: a proof that used it would repeat its mistakes.
TRANSFORMING = {"RotaryOrder", "Joined", "Cast", "EveryNthHead", "Stored", "whole", "blocks", "arithmetic"}


def layer(module: str) -> str:
    return max((name for name in ALLOWED if under(module, (name,))), key=len)


def under(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported name in full, `from a import b` as a.b; also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[str]:
    """What importing the module imports: not inside functions, not for type checkers."""
    for node in tree.body:
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing_only and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield from imports(node)


def violations(module: str, source: str) -> Iterator[str]:
    """module: without `llama_convert.`, as convert.containers.pth."""
    tree = ast.parse(source)
    package = module.split(".", maxsplit=1)[0]
    for name in imports(tree):
        top = name.split(".")[0]
        if name.startswith(OURS) and not under(name.removeprefix(OURS), ALLOWED[layer(module)]):
            yield f"imports {name}"
        asked = top in ASKED.get(module, ()) and name not in at_import(tree)
        if (
            (top in ARBITERS and not asked)
            or (top in SHOWING and package != "cli")
            or (top == "huggingface_hub" and package != "hub")
        ):
            yield f"imports {name}"
    if package != "verify":
        yield from (f"imports {name} when it is imported" for name in at_import(tree) if name.split(".")[0] in HEAVY)
    for node in ast.walk(tree):
        word = getattr(node, "attr", None) or getattr(node, "id", None)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            yield from () if package == "cli" else ("prints",)
        if package == "verify" and isinstance(node, ast.Attribute) and node.attr == "weight":
            # `x.weight(...)` is the converter's assembly; `view.weight` is a name of a weight.
            yield from (
                "calls .weight()" for call in ast.walk(tree) if isinstance(call, ast.Call) and call.func is node
            )
        if package == "verify" and word in TRANSFORMING:
            yield f"uses {word}"
    if package == "verify":
        yield from (f"imports {name}" for name in imports(tree) if TRANSFORMING & set(name.split(".")))


def modules() -> dict[str, Path]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_keeps_to_its_layer(module):
    assert list(violations(module, modules()[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("convert.plan", "from llama_convert.hub import push"),
        ("convert.plan", "import llama_convert.verify"),
        ("convert.plan", "def f():\n    from llama_convert.cli import app"),
        ("convert.containers.pth", "from llama_convert.convert.plan import Plan"),
        ("convert.containers", "from llama_convert.convert import errors, plan"),
        ("verify.forward", "from llama_convert.hub import push"),
        ("hub.upload", "from llama_convert.convert.plan import Plan"),
        ("hub.upload", "from llama_convert.verify import verify"),
        ("convert.run", "from tqdm import tqdm"),
        ("hub.upload", "import typer"),
        ("convert.run", "print('x')"),
        ("verify.report", "def f():\n    print('x')"),
        ("verify.forward", "def f():\n    from transformers import AutoModel"),
        ("cli.demo", "import llama_models.llama3"),
        ("verify.against.check", "def f():\n    import transformers"),
        ("verify.against.scratch", "def f():\n    import transformers"),
        ("verify.against.transformers", "import transformers"),
        ("verify.against.transformers", "try:\n    from transformers import AutoModel\nexcept ImportError:\n    pass"),
        ("convert.arithmetic", "import torch"),
        ("convert.arithmetic", "try:\n    from torch import Tensor\nexcept ImportError:\n    pass"),
        ("hub.upload", "import huggingface_hub"),
        ("cli.app", "def f():\n    from huggingface_hub import HfApi"),
        ("verify.tensors", "from llama_convert.convert.expressions import RotaryOrder"),
        ("verify.tensors", "from llama_convert.convert import expressions\nexpressions.Joined"),
        ("verify.tensors", "from llama_convert.convert.blocks import read"),
        ("verify.tensors", "def f(checkpoint, name):\n    return checkpoint.weight(name)"),
        ("verify.tensors", "def f(parts):\n    return parts.whole()"),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(list(violations(module, source))) > 0


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli.app", "import typer\nprint('x')\nfrom llama_convert.verify import verify"),
        ("convert.arithmetic", "if TYPE_CHECKING:\n    from torch import Tensor\ndef f():\n    import torch"),
        ("hub.upload", "from llama_convert.convert.containers.slices import ByteSource"),
        ("verify.against.transformers", "def f():\n    from transformers import AutoModel"),
        ("verify.tensors", "import torch\nfrom llama_convert.convert.checkpoint import Parts\nview.weight.role"),
    ],
)
def test_what_is_allowed_is_not_found(module, source):
    assert list(violations(module, source)) == []
