"""A folder, uploaded to the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_convert.hub.errors import HubError


def open_repository(repository: str) -> str:
    """The full name of a model repository that can be written to; it is created where it does not exist.

    repository: `organisation/name`, or `name` for the token's own account.
    Raises HubError: no token, no permission, not a repository name, no network.
    """
    from huggingface_hub import HfApi

    with _explained(repository):
        return HfApi().create_repo(repository, repo_type="model", exist_ok=True).repo_id


def push(folder: Path, repository: str) -> str:
    """Upload the folder's files to the repository; the address of the commit. Raises HubError."""
    from huggingface_hub import HfApi

    with _explained(repository):
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Convert with llama-convert"
        )
    return str(commit.commit_url)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """What the client raises, as one HubError that says what to do."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever HTTP client this version uses

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError(f"{repository}: there is no token", advice="Run: hf auth login") from error
    except HFValidationError as error:
        raise HubError(f"{repository}: not the name of a repository", advice="Give it as organisation/name.") from error
    except HfHubHTTPError as error:
        raise _refused(repository, error.response.status_code) from error
    except OfflineModeIsEnabled as error:
        raise HubError(f"{repository}: offline mode is on", advice="Unset HF_HUB_OFFLINE and run it again.") from error
    except httpx.TransportError as error:
        raise HubError(
            f"{repository}: no connection to {HfApi().endpoint}: {error}", advice="Check the network."
        ) from error


def _refused(repository: str, status: int) -> HubError:
    if status == 401:
        return HubError(f"{repository}: the token is missing or not accepted", advice="Run: hf auth login")
    if status == 403:
        return HubError(
            f"{repository}: the token may not write there", advice="Make a token with write permission for it."
        )
    return HubError(f"{repository}: the Hub answered {status}", advice="Try again later.")
