"""What stands between a user and the Hub, as one exception with its advice.

The client raises a dozen kinds of exceptions for "you may not" and lets its transport's own escape. Here they
become one line that says what is missing, and one that says what to type. Nothing of a request is quoted: an
address may be a signed one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any, TypeAlias
from urllib.parse import urlsplit

_ADDRESS = re.compile(r"https?://\S+")


class HubError(Exception):
    """No access: no token, no permission, no such repository, no network.

    summary: one line, what is wrong and where. problems: every single finding, where there is more than one.
    advice: what to do next, one line.
    """

    def __init__(self, summary: str, *, problems: Sequence[str] = (), advice: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.problems = tuple(problems)
        self.advice = advice


_Told: TypeAlias = Callable[[str, Any], HubError]


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """What the client raises inside the block, as a HubError about this repository (`organisation/name`).

    Costs a request to the Hub where it must be found out why a token may not read a gated repository.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        for kind, tell in _table():
            if isinstance(error, kind):
                raise tell(repository, error) from error
        raise


def _table() -> tuple[tuple[type[BaseException], _Told], ...]:
    """The most specific type first: GatedRepoError is a RepositoryNotFoundError is an HfHubHTTPError."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever HTTP client this version uses

    return (
        (errors.GatedRepoError, _gated),
        (errors.DisabledRepoError, _disabled),
        (errors.RepositoryNotFoundError, _not_found),
        (errors.RevisionNotFoundError, _no_revision),
        (errors.RemoteEntryNotFoundError, _no_file),
        (errors.HfHubHTTPError, _refused),
        (errors.HFValidationError, _no_name),
        (errors.LocalTokenNotFoundError, _no_token),
        (errors.OfflineModeIsEnabled, _offline),
        (errors.LocalEntryNotFoundError, _unreachable),
        (errors.FileMetadataError, _no_hub),
        (httpx.TransportError, _unreachable),
        (httpx.HTTPError, _unreachable),
        (JSONDecodeError, _no_hub),
    )


def endpoint() -> str:
    """The Hub's address as it may be shown: without a name and a password that may stand in it."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _page(repository: str) -> str:
    """The address of the repository, without a revision, or of another page."""
    return f"{endpoint()}/{repository.partition('@')[0]}"


def _gated(repository: str, error: Any) -> HubError:
    from llama_convert.hub.token import owner, token_source

    source = token_source()
    if source is None:
        return HubError(
            f"{repository}: gated, and there is no token",
            advice=f"Ask for access at {_page(repository)}, then run: hf auth login",
        )
    holder = owner()
    if holder is not None and holder.reads_gated is False:
        return _narrow(repository, source, holder.name)
    who = f"{holder.name} is" if holder else f"the owner of the token ({source}) is"
    return HubError(
        f"{repository}: gated, and {who} not on its list: access was not asked for, or not yet granted",
        advice=f"Ask for access at {_page(repository)}, wait for the mail that grants it, and run it again.",
    )


def _narrow(repository: str, source: str, name: str) -> HubError:
    return HubError(
        f"{repository}: gated, and the token ({source}) of {name} is fine-grained without the permission "
        "to read gated repositories",
        advice="Tick 'Read access to contents of all public gated repos you can access' for it at "
        f"{_page('settings/tokens')}, and run it again.",
    )


def _disabled(repository: str, error: Any) -> HubError:
    return HubError(f"{repository}: disabled by the Hub", advice=f"See {_page(repository)}.")


def _not_found(repository: str, error: Any) -> HubError:
    from llama_convert.hub.token import token_source

    if token_source() is None:
        return HubError(
            f"{repository}: not found, or private: there is no token",
            advice="Check the name; for a private repository run: hf auth login",
        )
    return HubError(
        f"{repository}: not found: gone, renamed, or private to others",
        advice=f"Check the name at {_page(repository)}",
    )


def _no_revision(repository: str, error: Any) -> HubError:
    return HubError(
        f"{repository}: has no such revision",
        advice=f"See its branches and commits at {_page(repository)}/commits/main",
    )


def _no_file(repository: str, error: Any) -> HubError:
    return HubError(f"{repository}: has no such file", advice=f"See its files at {_page(repository)}/tree/main")


def _refused(repository: str, error: Any) -> HubError:
    from llama_convert.hub.token import token_source

    status = error.response.status_code
    source = token_source()
    if status == 401 and source is not None:
        return HubError(
            f"{repository}: the token ({source}) is not accepted: mistyped, expired or revoked",
            advice=f"Make one at {_page('settings/tokens')}, then "
            + ("set HF_TOKEN to it." if source == "HF_TOKEN" else "run: hf auth login"),
        )
    if status == 401:
        return _no_token(repository, error)
    if status == 403:
        return _forbidden(repository, error)
    if status == 429:
        return HubError(f"{repository}: too many requests, says the Hub", advice="Wait a few minutes; run it again.")
    if status == 404:  # a Hub says what it is that it does not find
        return _no_hub(repository, error)
    return HubError(f"{repository}: the Hub answered {status}", advice="Try again later.")


def _forbidden(repository: str, error: Any) -> HubError:
    from llama_convert.hub.token import owner, token_source

    source = token_source()
    reads = error.response.request.method in ("GET", "HEAD")
    # A gate refuses a fine-grained token without saying that it is a gate.
    holder = owner() if reads and source else None
    if source and holder and holder.reads_gated is False:
        return _narrow(repository, source, holder.name)
    return HubError(
        f"{repository}: the token has no permission for this",
        advice=f"Give it the permission (for an upload: write) at {_page('settings/tokens')}",
    )


def _no_name(repository: str, error: Any) -> HubError:
    return HubError(f"{repository}: not the name of a repository", advice="Give it as organisation/name.")


def _no_token(repository: str, error: Any) -> HubError:
    return HubError(f"{repository}: there is no token", advice="Run: hf auth login")


def _offline(repository: str, error: Any) -> HubError:
    return HubError(
        f"{repository}: offline mode is on, and this needs the Hub", advice="Unset HF_HUB_OFFLINE and run it again."
    )


def _no_hub(repository: str, error: Any) -> HubError:
    return HubError(
        f"{repository}: {endpoint()} does not answer as a Hub does", advice="Check HF_ENDPOINT and proxies."
    )


def _unreachable(repository: str, error: Any) -> HubError:
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    return HubError(
        f"{repository}: no connection to {endpoint()} ({type(cause).__name__}: {redacted(str(cause))})",
        advice="Check the network, proxies and HF_ENDPOINT.",
    )


def redacted(text: str) -> str:
    """The first line without addresses: a signed one opens the file to whoever reads it."""
    return _ADDRESS.sub("...", text.strip().splitlines()[0] if text.strip() else "no reason given")
