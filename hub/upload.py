"""A folder, uploaded to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.hub.errors import HubError, explained

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MESSAGE = "Convert with llama-convert"
_OPEN = ("open", "draft")  # of a pull request; those that a program opens begin as drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """An upload. url: of the commit. pull_request: its address, if it went into one.

    changed: False where everything was there already. resumed: into a pull request that was open.
    """

    url: str
    pull_request: str | None
    changed: bool
    resumed: bool


def check_token(repository: str) -> str:
    """The name of the account whose token is there.

    Raises HubError: no token, a token that is not accepted, no name of a repository, no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

    with explained(repository):
        validate_repo_id(repository)
        return str(HfApi().whoami()["name"])


def open_repository(repository: str, *, private: bool = False) -> str:
    """The full name of a model repository that can be written to; it is created where it does not exist.

    repository: `organisation/name`, or `name` for the token's own account. private: nobody else may see it.
    Raises HubError: no token, no permission, not a repository name, no network; public though private is asked for.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with explained(repository):
        name = api.create_repo(repository, repo_type="model", exist_ok=True, private=private or None).repo_id
        seen = private and not api.model_info(name).private
    if seen:
        raise HubError(
            f"{name}: is there already, and public", advice="Make it private in its settings, or leave --private away."
        )
    return name


def push(
    folder: Path,
    repository: str,
    *,
    extra: Mapping[str, str] | None = None,
    title: str = _MESSAGE,
    create_pr: bool = False,
    quiet: bool = False,
) -> Pushed:
    """Upload the folder's files, without hidden ones, to the repository; what is there already is not sent again.

    extra: texts by file name, uploaded as well; nothing is written into the folder. title: of the commit and of the
    pull request. create_pr: into the open pull request of this account with this title, or a new one.
    Raises HubError. An upload that broke off goes on when it is run again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]  # documented

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the client's advice is for programs: what to pass to its functions
    if quiet:
        disable_progress_bars()
    api = HfApi()
    with explained(repository), _staged(folder, extra or {}) as staged:
        number = _open_pull_request(api, repository, title) if create_pr else None
        revision = "main" if number is None else f"refs/pr/{number}"
        before = api.model_info(repository, revision=revision).sha
        with _broken_off(repository):
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=staged,
                commit_message=title,
                revision=revision,
                create_pr=create_pr and number is None,
            )
    resumed = f"{api.endpoint}/{repository}/discussions/{number}" if number is not None else None
    return Pushed(
        url=str(commit.commit_url),
        pull_request=commit.pr_url or resumed,
        changed=commit.oid != before,
        resumed=number is not None,
    )


def visible_files(folder: Path) -> list[str]:
    """The names of the folder's files, by `/`; hidden ones are no part of a model."""
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts))


@contextmanager
def _staged(folder: Path, extra: Mapping[str, str]) -> Iterator[Path]:
    """A folder of links to the files, with the extra ones beside them: the client uploads folders only."""
    with tempfile.TemporaryDirectory(prefix="llama-convert-push-") as name:
        root = Path(name)
        for file in visible_files(folder):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).symlink_to((folder / file).resolve())
        for file, text in extra.items():
            (root / file).write_text(text, encoding="utf-8")
        yield root


@contextmanager
def _broken_off(repository: str) -> Iterator[None]:
    """What a failed transfer raises: a bare RuntimeError, the client's or Xet's, whose text may hold addresses."""
    try:
        yield
    except RuntimeError as error:
        raise HubError(
            f"{repository}: the upload broke off", advice="Run it again: what has arrived is not sent again."
        ) from error


def _open_pull_request(api: HfApi, repository: str, title: str) -> int | None:
    """The number of this account's open pull request with the title: the last one, if there are several."""
    author = api.whoami()["name"]
    found = api.get_repo_discussions(repository, author=author, discussion_type="pull_request")
    return max((pull.num for pull in found if pull.title == title and pull.status in _OPEN), default=None)
