"""Chat templates in Jinja, written for this project from the formats that Meta documents."""

from __future__ import annotations

from importlib.resources import files

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.special_tokens import VERSIONS

TEMPLATES = {
    "2": "llama-2.jinja",
    "code": "llama-2.jinja",
    "3": "llama-3.jinja",
    "3.1": "llama-3.1.jinja",
    "3.2": "llama-3.1.jinja",
    "3.3": "llama-3.1.jinja",
}
LARGE_CODE = "code-llama-70b.jinja"


def chat_template(version: str, *, large_code: bool = False) -> str | None:
    """The chat template of a version's instruct models; None where there is none.

    large_code: Code Llama 70B Instruct, whose turns are `Source: ... <step>`; its smaller sisters speak Llama
    2's format. None for Llama 1, which has no chat models, and for the Guards, whose prompt is a policy that
    the user must choose. The templates add no system prompt and no date of their own; content is trimmed, as
    Hugging Face's are. They render the same whatever `trim_blocks` and `lstrip_blocks` are.
    Source: llama-models llama3/chat_format.py and llama3_1/prompt_format.md; codellama llama/generation.py.
    """
    if version not in VERSIONS:
        raise UsageError(f"There is no Llama version {version!r}.", advice=f"Known are {', '.join(VERSIONS)}.")
    name = LARGE_CODE if large_code and version == "code" else TEMPLATES.get(version)
    if name is None:
        return None
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8").rstrip("\n")
