"""The checkpoint that a name on the Hub means: as the Hub has it now, or as the cache holds it."""

from __future__ import annotations

from dataclasses import dataclass

from llama_convert.convert.errors import UsageError
from llama_convert.hub.client_cache import held, is_listed, stored_snapshot
from llama_convert.hub.layouts import LIKELIEST, Choice, choose
from llama_convert.hub.repository import RepositoryName, Snapshot, look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint with weights in a repository.

    stored: the cache told it, and has all its files; the Hub was not asked, so that licence and gate are not known.
    """

    snapshot: Snapshot
    choice: Choice
    stored: bool = False


def find_checkpoint(name: RepositoryName, what: str | None = None, *, stored_first: bool = False) -> Found:
    """The checkpoint that is meant, and its repository at one commit.

    what: as in `choose`. stored_first: take one that is complete in the cache at the commit that its branch has
    there; offline mode does that too. Raises UsageError: no such checkpoint, several, or one without weights. HubError.
    Cost: none where the cache tells it; else that of `look_up`.
    """
    from huggingface_hub import constants

    if (stored_first or constants.HF_HUB_OFFLINE) and (found := _stored(name, what)):
        return found
    snapshot = look_up(name)
    return Found(snapshot=snapshot, choice=_with_weights(choose(snapshot, what)))


def _stored(name: RepositoryName, what: str | None) -> Found | None:
    """The likeliest checkpoint that the cache has all files of; None where it knows of none."""
    snapshot = stored_snapshot(name)
    if snapshot is None or not is_listed(snapshot):  # without a listing nobody knows what is missing
        return None
    for kind in (what,) if what else LIKELIEST:
        choice = _meant(snapshot, kind)
        if choice and all(held(snapshot.repository, entry) for entry in choice.entries):
            return Found(snapshot=snapshot, choice=choice, stored=True)
    return None


def _meant(snapshot: Snapshot, what: str) -> Choice | None:
    try:
        return _with_weights(choose(snapshot, what))
    except UsageError:  # the Hub may have it by now
        return None


def _with_weights(choice: Choice) -> Choice:
    if not choice.weights:
        raise UsageError(f"--what {choice}: holds no weights", advice="Choose hf, original or gguf.")
    return choice
