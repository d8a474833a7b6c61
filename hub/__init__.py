"""The Hugging Face Hub: the only package that talks to the network."""

from __future__ import annotations

from llama_convert.hub.card import licence_of, model_card
from llama_convert.hub.download import Downloaded, DownloadPlan, download, plan_download
from llama_convert.hub.errors import HubError
from llama_convert.hub.finding import Found, find_checkpoint
from llama_convert.hub.layouts import Choice, choices, choose
from llama_convert.hub.mounting import Destination, Mount, laid_out
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot, look_up, parse_name
from llama_convert.hub.token import Owner, owner, token_source
from llama_convert.hub.upload import Pushed, check_token, open_repository, push, visible_files

__all__ = [
    "Choice",
    "Destination",
    "DownloadPlan",
    "Downloaded",
    "Found",
    "HubError",
    "Mount",
    "Owner",
    "Pushed",
    "RemoteEntry",
    "RemoteFile",
    "RepositoryName",
    "Snapshot",
    "check_token",
    "choices",
    "choose",
    "download",
    "find_checkpoint",
    "laid_out",
    "licence_of",
    "look_up",
    "model_card",
    "open_repository",
    "owner",
    "parse_name",
    "plan_download",
    "push",
    "token_source",
    "visible_files",
]
