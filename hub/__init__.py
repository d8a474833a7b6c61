"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.errors import HubError
from llama_convert.hub.layouts import Choice, choices, choose
from llama_convert.hub.mounting import Mount, laid_out
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot, look_up, parse_name
from llama_convert.hub.token import Owner, owner, token_source
from llama_convert.hub.upload import open_repository, push

__all__ = [
    "Choice",
    "HubError",
    "Mount",
    "Owner",
    "RemoteEntry",
    "RemoteFile",
    "RepositoryName",
    "Snapshot",
    "choices",
    "choose",
    "laid_out",
    "look_up",
    "open_repository",
    "owner",
    "parse_name",
    "push",
    "token_source",
]
