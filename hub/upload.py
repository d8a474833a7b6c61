"""A folder, uploaded to the Hub."""

from __future__ import annotations

from pathlib import Path

from llama_convert.hub.errors import HubError


def push(folder: Path, repository: str) -> str:
    """Upload the folder's files to the model repository, which is created where it does not exist; its URL.

    repository: `organisation/name`, or `name` for the token's own account.
    Raises HubError: no token, no permission, not a repository name, no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever HTTP client this version uses

    api = HfApi()
    try:
        created = api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Convert with llama-convert")
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
            f"{repository}: no connection to {api.endpoint}: {error}", advice="Check the network."
        ) from error
    return str(created)


def _refused(repository: str, status: int) -> HubError:
    if status == 401:
        return HubError(f"{repository}: the token is missing or not accepted", advice="Run: hf auth login")
    if status == 403:
        return HubError(
            f"{repository}: the token may not write there", advice="Make a token with write permission for it."
        )
    return HubError(f"{repository}: the Hub answered {status}", advice="Try again later.")
