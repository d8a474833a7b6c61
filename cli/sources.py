"""What a command reads: a folder or file that is here, or a repository on the Hub, which is fetched first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.cli.output import Output
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.hub import Found
    from llama_convert.hub.download import DownloadPlan
    from llama_convert.hub.layouts import Choice
    from llama_convert.hub.repository import RepositoryName


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A source on this machine. from_hub: the user named a repository, not a path."""

    path: Path
    from_hub: bool = False


def local(
    source: Path,
    output: Output,
    *,
    likeliest: Sequence[str] | None = None,
    needs: Callable[[Choice], Mapping[Path, int]] = lambda choice: {},
) -> Local:
    """The source, here: a path that exists, or else `organisation/name[@revision]`, fetched into the Hub's cache.

    likeliest: kinds of checkpoints, the one that suits best first. needs: as in `plan_download`.
    Any other text is given back for the command to refuse. Raises what a download raises.
    """
    plan = remote(source, output, likeliest=likeliest, needs=needs)
    return fetched(plan, output) if plan else Local(path=source)


def remote(
    source: Path,
    output: Output,
    *,
    what: str | None = None,
    likeliest: Sequence[str] | None = None,
    held_first: bool = False,
    needs: Callable[[Choice], Mapping[Path, int]] = lambda choice: {},
) -> DownloadPlan | None:
    """The plan to fetch a source that names a repository; None for a path, and for what is neither.

    what, held_first: as in `plan_download`. Raises UsageError where `what` is given of a path, or holds no weights.
    """
    name = repository_meant(source, what)
    if name is None:
        return None
    from llama_convert.hub import plan_download
    from llama_convert.hub.layouts import LIKELIEST

    with no_path_either():
        plan = plan_download(
            name,
            what,
            likeliest=likeliest or LIKELIEST,
            held_first=held_first,
            needs=needs,
            progress=output.progress,
        )
    if not plan.choice.weights:
        raise UsageError(f"--what {plan.choice}: holds no weights", advice="Choose hf, original or gguf.")
    return plan


def repository_meant(source: Path, what: str | None = None) -> RepositoryName | None:
    """The repository that a user means by this; None where it is a path, for what is here comes first.

    what: as in `choose`. Raises UsageError where it is given of what is no repository.
    """
    from llama_convert.hub import parse_name

    name = None if source.exists() else parse_name(str(source))
    if what is not None and name is None:
        raise UsageError(f"--what {what}: {source} is no repository", advice="Give the folder or file that is meant.")
    return name


def found_on_hub(name: RepositoryName, what: str | None, *, stored_first: bool = False) -> Found:
    """The checkpoint of a repository that is to be read without downloading it; as in `find_checkpoint`."""
    from llama_convert.hub import find_checkpoint

    with no_path_either():
        return find_checkpoint(name, what, stored_first=stored_first)


@contextmanager
def no_path_either() -> Iterator[None]:
    """What the Hub refuses may have been meant as a path: say that there is none."""
    from llama_convert.hub.errors import HubError

    try:
        yield
    except HubError as error:
        summary = f"{error.summary} (and there is no such folder or file here)"
        raise HubError(summary, problems=error.problems, advice=error.advice) from error


def fetched(plan: DownloadPlan, output: Output) -> Local:
    """The source of a plan, after carrying it out."""
    from llama_convert.cli.downloading import carry_out

    return Local(path=carry_out(plan, output).checkpoint, from_hub=True)
