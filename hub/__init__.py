"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.errors import HubError
from llama_convert.hub.upload import open_repository, push

__all__ = ["HubError", "open_repository", "push"]
