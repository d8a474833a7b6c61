"""Who may do what: tokens, gates and repositories that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.hub.fake_hub.answers import Answer, Refusal, refusal
from tests.hub.fake_hub.contents import Repository

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A token and whose it is.

    may_read: the gated and private repositories it was let into. may_write: repositories and namespaces it may
    write to. gated_permission: a fine-grained token without "read access to contents of all public gated repos you
    can access" is refused at every gate, approved or not. kind: read, write or fineGrained.
    """

    name: str
    may_read: frozenset[str] | set[str] = field(default_factory=frozenset)
    may_write: frozenset[str] | set[str] = field(default_factory=frozenset)
    gated_permission: bool = True
    kind: str = "fineGrained"

    def writes(self, repository: str) -> bool:
        """Whether it may write there."""
        return repository in self.may_write or repository.split("/", maxsplit=1)[0] in {*self.may_write, self.name}


def who(hub: FakeHub, headers: Mapping[str, str]) -> Account | None:
    """The account whose token the request carries; None without one. An unknown token is refused everywhere."""
    words = headers.get("authorization", "")
    if not words:
        return None
    account = hub.tokens.get(words.removeprefix("Bearer "))
    if account is None:
        raise refusal(401, "Invalid credentials in Authorization header")
    return account


def find(hub: FakeHub, name: str, account: Account | None) -> Repository:
    """The repository, if this account may know of it. A renamed one is answered by a redirect."""
    if name in hub.renamed:
        raise Renamed(name, hub.renamed[name])
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and not _known(repository, account)):
        # As the Hub does: whoever is not logged in is not told whether there is one.
        raise (refusal(404, "Repository not found", "RepoNotFound") if account
               else refusal(401, "Invalid username or password.", "RepoNotFound"))  # fmt: skip
    return repository


class Renamed(Exception):
    """The repository has another name now."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"{old} -> {new}")
        self.old, self.new = old, new

    def answer(self, path: str, query: str) -> Answer:
        """The redirect, on the same host."""
        target = path.replace(self.old, self.new, 1) + (f"?{query}" if query else "")
        return Answer(status=307, headers={"Location": target}, body=f"Temporary Redirect: {target}".encode())


def check_gate(repository: Repository, account: Account | None) -> None:
    """Refuse the contents of a gated repository to those who are not let in."""
    name = repository.name
    if not repository.gated:
        return
    if account is None:
        raise _gated(401, name, "You must have access to it and be authenticated to access it. Please log in.")
    if not account.gated_permission:
        raise refusal(
            403,
            "Please enable access to public gated repositories in your fine-grained token settings to view this "
            "repository.",
        )
    if name not in account.may_read and not account.writes(name):
        raise _gated(403, name, f"You are not in the authorized list. Visit https://huggingface.co/{name} to ask.")


def check_write(repository: str, account: Account | None, *, as_pull_request: bool = False) -> Account:
    """The account, if it may write to the repository; a pull request may be opened by everyone with a name."""
    if account is None:
        raise refusal(401, "Invalid username or password.")
    if as_pull_request:
        return account
    if not account.writes(repository) or account.kind == "read":
        raise refusal(403, f"You don't have the rights to write to {repository}")
    return account


def whoami(account: Account | None) -> dict[str, Any]:
    """What the Hub says of a token."""
    if account is None:
        raise refusal(401, "Invalid username or password.")
    token: dict[str, Any] = {"displayName": "test", "role": account.kind, "createdAt": "2026-01-01T00:00:00.000Z"}
    if account.kind == "fineGrained":
        token["fineGrained"] = {"canReadGatedRepos": account.gated_permission, "global": [], "scoped": []}
    return {
        "type": "user",
        "id": "0" * 24,
        "name": account.name,
        "fullname": account.name.title(),
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _known(repository: Repository, account: Account | None) -> bool:
    return account is not None and (repository.name in account.may_read or account.writes(repository.name))


def _gated(status: int, name: str, words: str) -> Refusal:
    return refusal(status, f"Access to model {name} is restricted. {words}", "GatedRepo")
