"""`pad` and `resize`: a token to pad with, more tokens, more or fewer rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.converting import carry_out, conversion_json, finish, parse_request, watched
from llama_convert.cli.grouped import grouped
from llama_convert.cli.output import Output, gigabytes
from llama_convert.cli.plans import tell_far_plan, tell_plan
from llama_convert.cli.sources import local, remote
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.vocabulary import Change, Init

if TYPE_CHECKING:
    from llama_convert.convert import Checkpoint, Conversion, Plan, Request
    from llama_convert.convert.tokens import Tokens

_INITS = "mean, zero, normal, copy:TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writing:
    """How the result is written: what both commands take."""

    in_place: options.InPlace = False
    llama_version: options.LlamaVersion = None
    dtype: options.DTypeName = None
    quantize: options.Quantize = None
    shards: options.Shards = None
    shard_size: options.ShardSize = None
    assume: options.Assume = None
    overwrite: options.Overwrite = False
    no_check: options.NoCheck = False
    dry_run: options.DryRun = False
    verify: options.Verify = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What both commands are told. target: None for a change in place. to: None for the source's own format."""

    source: Path
    target: Path | None
    to: str | None
    request: Request
    llama_version: str | None
    assumed: Mapping[str, str]
    in_place: bool
    overwrite: bool
    check: bool
    dry_run: bool
    verify: bool


@grouped
def pad(
    source: options.Source,
    target: options.MaybeTarget = None,
    *,
    to: options.SameFormat = None,
    token: Annotated[
        str | None,
        Option("--token", help='Name of the token to pad with: a new one, such as "<pad>", or a reserved one.'),
    ] = None,
    reuse_reserved: Annotated[
        bool,
        Option("--reuse-reserved/--no-reuse-reserved", help="Take a reserved token rather than add one."),
    ] = True,
    multiple_of: options.MultipleOf = None,
    writing: _Writing,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Give a model a token to pad with; says which, and why."""
    from llama_convert.convert import pad_change

    change = partial(pad_change, token=token, reuse_reserved=reuse_reserved, multiple_of=multiple_of)
    output = Output(json=json, quiet=quiet)
    wish = _wish(source, target, to, writing)
    _check_place(wish)
    if _told_far(wish, change, output):
        return
    wish = replace(wish, source=local(wish.source, output).path)
    plan = _plan(wish, change)
    if wish.in_place and not _changes(plan):
        assert plan.source.change is not None  # it has been planned
        output.result(f"{source}: {plan.source.change.why} Nothing is written.")
        output.data({"ok": True, "written": False, "why": plan.source.change.why})
        return
    _carry_out(wish, plan, output)


@grouped
def resize(
    source: options.Source,
    target: options.MaybeTarget = None,
    *,
    to: options.SameFormat = None,
    vocab_size: Annotated[
        int | None, Option("--vocab-size", help="Rows of embedding and head afterwards.", show_default=False)
    ] = None,
    add_tokens: Annotated[
        list[str] | None,
        Option(
            "--add-tokens",
            metavar="FILE/NAME",
            help="A new token, or a file with one on each line; may be repeated.",
            show_default=False,
        ),
    ] = None,
    special: Annotated[
        bool, Option("--special", help="The new tokens are special: no part of a text's meaning, skipped in decoding.")
    ] = False,
    multiple_of: options.MultipleOf = None,
    init: Annotated[str, Option("--init", help=f"What new rows are: {_INITS}.")] = "mean",
    seed: Annotated[int, Option("--seed", min=0, help="Of --init normal.")] = 0,
    writing: _Writing,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add tokens, or change the number of rows of embedding and head; the rows there are keep every bit."""
    from llama_convert.convert import resize_change

    kind, copied = parse_init(init)
    change = partial(
        resize_change,
        vocab_size=vocab_size,
        add_tokens=parse_tokens(add_tokens or []),
        special=special,
        multiple_of=multiple_of,
        init=kind,
        copied=copied,
        seed=seed,
    )
    wish = _wish(source, target, to, writing)
    output = Output(json=json, quiet=quiet)
    _check_place(wish)
    if not _told_far(wish, change, output):
        wish = replace(wish, source=local(wish.source, output).path)
        _carry_out(wish, _plan(wish, change), output)


def parse_init(text: str) -> tuple[Init, str | None]:
    """`mean` or `copy:TOKEN` as what it says; UsageError for another text."""
    name, colon, token = text.partition(":")
    known = {init.value: init for init in Init}
    if name not in known or (known[name] is Init.COPY) != bool(colon and token):
        raise UsageError(f"--init {text}: there is no such", advice=f"Known are {_INITS}.")
    return known[name], token or None


def parse_tokens(given: list[str]) -> tuple[str, ...]:
    """The tokens that are named, and those in files, one a line; UsageError for a file that is no text."""
    return tuple(token for text in given for token in (_lines(Path(text)) if _is_file(text) else [text]))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text in UTF-8", advice="Give a file with one token on each line.") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise UsageError(f"{path}: holds no token", advice="Give a file with one token on each line.")
    return found


def _wish(source: Path, target: Path | None, to: str | None, writing: _Writing) -> _Wish:
    from llama_convert.cli.sizes import parse_assumptions, parse_quantised

    request = parse_request(writing.dtype, writing.shard_size, instruct=False, special_tokens=None)
    return _Wish(
        source=source,
        target=target,
        to=to,
        request=replace(request, shards=writing.shards, quantize=parse_quantised(writing.quantize, "--quantize")),
        llama_version=writing.llama_version,
        assumed=parse_assumptions(writing.assume or []),
        in_place=writing.in_place,
        overwrite=writing.overwrite,
        check=not writing.no_check,
        dry_run=writing.dry_run,
        verify=writing.verify,
    )


def _told_far(wish: _Wish, change: Callable[[Checkpoint, Tokens], Change], output: Output) -> bool:
    """Whether this was a dry run of a repository, and is done."""
    found = remote(wish.source, output) if wish.dry_run else None
    if found is None:
        return False
    tell_far_plan(found, lambda place: _plan(replace(wish, source=place), change), output)
    return True


def _plan(wish: _Wish, change: Callable[[Checkpoint, Tokens], Change]) -> Plan:
    from llama_convert.convert import plan_conversion
    from llama_convert.convert.in_place import in_place

    plan = plan_conversion(
        wish.source,
        to=wish.to,
        request=wish.request,
        llama_version=wish.llama_version,
        assume=wish.assumed,
        change=change,
    )
    return in_place(plan) if wish.in_place else plan


def _check_place(wish: _Wish) -> None:
    if wish.in_place and not wish.source.exists():
        raise UsageError(
            f"--in-place: {wish.source} is no folder here", advice="Download it with --to DIR and give that folder."
        )
    if wish.in_place and wish.target is not None:
        raise UsageError(f"--in-place and {wish.target}: which is to be written?", advice="Leave one of them out.")
    if wish.in_place and wish.verify:
        raise UsageError(
            "--in-place and --verify: there will be no source to compare with", advice="Leave one of them out."
        )
    if not wish.in_place and wish.target is None:
        raise UsageError("DST is missing", advice="Give a folder to write, or --in-place for a Hugging Face folder.")


def _changes(plan: Plan) -> bool:
    from llama_convert.convert.resizing import is_change
    from llama_convert.convert.tokens import open_tokens

    source, change = plan.source, plan.source.change
    before = replace(source, change=None, config=replace(source.config, vocab_size=source.rows))
    return change is not None and is_change(before, open_tokens(before, plan.request), change)


def _carry_out(wish: _Wish, plan: Plan, output: Output) -> None:
    from llama_convert.convert.readers import reading

    if wish.dry_run:
        tell_plan(plan, output)
    elif wish.target is None:
        output.data({"ok": True, **conversion_json(_rewritten(wish, plan, output))})
    else:
        with reading(wish.source):
            done = carry_out(plan, wish.target, overwrite=wish.overwrite, check=wish.check, output=output)
            finish(done, output, verify=wish.verify, assumed=wish.assumed)


def _rewritten(wish: _Wish, plan: Plan, output: Output) -> Conversion:
    from llama_convert.convert.in_place import rewrite

    done = watched(partial(rewrite, plan, check=wish.check), plan, wish.source, output)
    weights = f"{counted(len(plan.files), 'weight file')} of {len(plan.source.files)} written anew"
    output.result(f"{done.folder}: {weights} ({gigabytes(plan.nbytes)}), the others are the same files as before")
    return done
