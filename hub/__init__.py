"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.card import licence_of, model_card
from llama_convert.hub.errors import HubError
from llama_convert.hub.upload import Pushed, check_token, open_repository, push, visible_files

__all__ = [
    "HubError",
    "Pushed",
    "check_token",
    "licence_of",
    "model_card",
    "open_repository",
    "push",
    "visible_files",
]
