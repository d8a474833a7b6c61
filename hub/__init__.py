"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.errors import HubError
from llama_convert.hub.upload import push

__all__ = ["HubError", "push"]
