"""A folder, uploaded to the Hub."""

from __future__ import annotations

from pathlib import Path

from llama_convert.hub.errors import explained


def open_repository(repository: str) -> str:
    """The full name of a model repository that can be written to; it is created where it does not exist.

    repository: `organisation/name`, or `name` for the token's own account.
    Raises HubError: no token, no permission, not a repository name, no network.
    """
    from huggingface_hub import HfApi

    with explained(repository):
        return HfApi().create_repo(repository, repo_type="model", exist_ok=True).repo_id


def push(folder: Path, repository: str) -> str:
    """Upload the folder's files to the repository; the address of the commit. Raises HubError."""
    from huggingface_hub import HfApi

    with explained(repository):
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Convert with llama-convert"
        )
    return str(commit.commit_url)
