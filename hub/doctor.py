"""What stands between this machine and the Hub, asked for one by one; every question has a time limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Thread
from typing import Literal, TypeVar

from llama_convert.hub.errors import HubError, endpoint, explained
from llama_convert.hub.repository import RepositoryName, Snapshot, look_up, parse_name
from llama_convert.hub.token import owner, token_source

_Answer = TypeVar("_Answer")

_CONNECT_SECONDS = 5.0  # longest wait for any answer of the Hub
_SECONDS = 20.0  # longest wait for the answer to one question, its repetitions included
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_ANSWERS = (200, 401, 403, 429)  # of a Hub to somebody unknown
_CHECK_ENDPOINT = "Check HF_ENDPOINT and proxies, or try again later."
_NOT_ASKED = "not asked: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. found: what it is. advice: what to do where it is not well."""

    name: str
    status: Literal["ok", "warning", "problem"]
    found: str
    advice: str = ""


def hub_checks(repository: str | None = None) -> Iterator[Check]:
    """Offline mode, endpoint, proxies, Xet, connection, token, and whether the repository can be read.

    repository: `organisation/name[@revision]`. No request is made in offline mode. The token and passwords in
    addresses are in no answer.
    """
    from huggingface_hub import is_offline_mode

    offline = is_offline_mode()
    yield _offline(offline)
    yield _endpoint()
    yield _proxies()
    yield _xet()
    connected = None if offline else _connection()
    if connected:
        yield connected
    silent = "offline mode is on" if offline else "no connection" if connected and connected.status != "ok" else ""
    yield _token(silent)
    if repository is not None:
        yield _repository(repository, silent)


def _offline(on: bool) -> Check:
    if on:
        return Check(
            name="offline mode",
            status="warning",
            found="on: only what is in the cache can be used",
            advice="Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to reach the Hub.",
        )
    return Check(name="offline mode", status="ok", found="off")


def _endpoint() -> Check:
    chosen = " (HF_ENDPOINT)" if os.environ.get("HF_ENDPOINT") else ""
    return Check(name="endpoint", status="ok", found=endpoint() + chosen)


def _proxies() -> Check:
    names = [name for upper in _PROXIES for name in (upper, upper.lower()) if os.environ.get(name)]
    return Check(name="proxies", status="ok", found=", ".join(names) or "none")


def _xet() -> Check:
    from huggingface_hub import constants

    if constants.HF_HUB_DISABLE_XET:
        return Check(name="xet", status="ok", found="off (HF_HUB_DISABLE_XET): files come over plain HTTP")
    if find_spec("hf_xet") is None:
        return Check(name="xet", status="ok", found="hf_xet is not installed: files come over plain HTTP")
    return Check(name="xet", status="ok", found="on")


def _connection() -> Check:
    """Asked without the token: a Hub says 401 then; a gate of a hotel's network, or a proxy, says something else."""
    from huggingface_hub import constants, get_session

    def ask() -> tuple[int, str]:
        answer = get_session().get(f"{constants.ENDPOINT}/api/whoami-v2", timeout=_CONNECT_SECONDS)
        return answer.status_code, answer.headers.get("content-type", "")

    try:
        with explained("the Hub"):
            status, kind = _within(_CONNECT_SECONDS + 1, ask)
    except LateError:
        return _no_answer("connection", _CONNECT_SECONDS)
    except HubError as error:
        return Check(name="connection", status="problem", found=error.summary, advice=error.advice)
    if status not in _ANSWERS or kind.startswith("text/html"):
        return Check(
            name="connection",
            status="problem",
            found=f"{endpoint()} answers {status}, and not as a Hub does",
            advice=_CHECK_ENDPOINT,
        )
    return Check(name="connection", status="ok", found=f"{endpoint()} answers")


def _no_answer(name: str, seconds: float) -> Check:
    return Check(
        name=name,
        status="problem",
        found=f"{endpoint()} does not answer within {seconds:.0f} seconds",
        advice="Check the network, proxies and HF_ENDPOINT.",
    )


def _token(silent: str) -> Check:
    try:
        source = _within(_SECONDS, token_source)
        if source is None:
            return Check(
                name="token",
                status="warning",
                found="none: gated and private repositories cannot be read",
                advice="Run: hf auth login",
            )
        if silent:
            return Check(name="token", status="ok", found=f"from {source}; whose it is was {_NOT_ASKED}{silent}")
        return _owned(source)
    except LateError:
        return _no_answer("token", _SECONDS)
    except HubError as error:
        return Check(name="token", status="problem", found=error.summary, advice=error.advice)


def _owned(source: str) -> Check:
    holder = _within(_SECONDS, owner)
    if holder is None:
        _within(_SECONDS, _whoami)
        return Check(
            name="token",
            status="warning",
            found=f"from {source}; the Hub does not say whose",
            advice="Try again later.",
        )
    found = f"from {source}, of {holder.name}, role {holder.role}"
    if holder.reads_gated is False:
        return Check(
            name="token",
            status="warning",
            found=f"{found}, without the permission to read gated repositories",
            advice="Tick 'Read access to contents of all public gated repos you can access' for it at "
            f"{endpoint()}/settings/tokens.",
        )
    return Check(name="token", status="ok", found=found)


def _whoami() -> None:
    """Raises HubError for what keeps the Hub from naming the token's owner."""
    from huggingface_hub import HfApi

    with explained("the Hub"):
        HfApi().whoami()


def _repository(text: str, silent: str) -> Check:
    name = parse_name(text)
    if name is None:
        return Check(
            name="repository",
            status="problem",
            found=f"{text}: not the name of a repository",
            advice="Give it as organisation/name.",
        )
    if silent:
        return Check(
            name="repository",
            status="problem",
            found=f"{text}: {_NOT_ASKED}{silent}",
            advice="Mend that first, and run it again.",
        )
    try:
        found = _within(_SECONDS, lambda: _readable(name))
    except LateError:
        return _no_answer("repository", _SECONDS)
    except ValueError:  # no JSON
        found_there = f"{text}: {endpoint()} answers, and not as a Hub does"
        return Check(name="repository", status="problem", found=found_there, advice=_CHECK_ENDPOINT)
    except HubError as error:
        return Check(name="repository", status="problem", found=error.summary, advice=error.advice)
    gated = ", gated" if found.gated else ""
    renamed = f", now {found.repository}" if found.repository != name.repository else ""
    return Check(name="repository", status="ok", found=f"{text}: readable at commit {found.commit[:8]}{gated}{renamed}")


def _readable(name: RepositoryName) -> Snapshot:
    """The repository, after it was asked for a file as well: a listing is shown to those who may not read."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    found = look_up(name)
    with explained(str(name)):
        HfApi().auth_check(found.repository)
        smallest = min(found.entries, key=lambda entry: entry.size, default=None)
        if smallest is not None:
            url = hf_hub_url(found.repository, smallest.path, revision=found.commit)
            get_hf_file_metadata(url, timeout=_CONNECT_SECONDS)
    return found


def _within(seconds: float, ask: Callable[[], _Answer]) -> _Answer:
    """What it gives or raises; LateError where it takes longer. What hangs, hangs on in a thread nobody waits for."""
    answer: Future[_Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    return answer.result(timeout=seconds)
