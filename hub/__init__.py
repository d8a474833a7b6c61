"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.download import Downloaded, DownloadPlan, download, plan_download
from llama_convert.hub.errors import HubError
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot, look_up, parse_name
from llama_convert.hub.token import Owner, owner, token_source
from llama_convert.hub.upload import open_repository, push

__all__ = [
    "DownloadPlan",
    "Downloaded",
    "HubError",
    "Owner",
    "RemoteEntry",
    "RemoteFile",
    "RepositoryName",
    "Snapshot",
    "download",
    "look_up",
    "open_repository",
    "owner",
    "parse_name",
    "plan_download",
    "push",
    "token_source",
]
