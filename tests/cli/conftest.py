"""The command in this process, checkpoints to damage, and the laws that hold for every refusal."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from llama_convert.cli import main
from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from tests.checkpoints import CASES, Case, random_model, write_meta
from tests.cli.commands import Result, leftovers
from tests.cli.hub_commands import User
from tests.hub.conftest import no_user  # noqa: F401
from tests.hub.downloads import NAME, point_at
from tests.hub.fake_hub import FakeHub

OTHER = "herd/alpaca"
BY_NAME = {case.name: case for case in CASES}
PAGE = 1 << 16  # bytes that a read of a file on the Hub fetches at the least
Run = Callable[..., Result]
Add = Callable[..., FakeHub]


@contextmanager
def own_handler() -> Iterator[None]:
    """The command takes SIGTERM for itself: afterwards it is what it was."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """arguments -> the finished command."""

    def ran(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    with own_handler():
        yield ran


@pytest.fixture
def source(meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> Callable[..., Path]:
    """(case, layout of write_meta) -> a checkpoint of Meta's that the test may change."""

    def made(name: str = "3.1-4shards", *, checklist: bool = False, **layout: Any) -> Path:
        folder = tmp_path / "source"
        if layout:
            return BY_NAME[name].write(folder, checklist=checklist, **layout)
        shutil.copytree(meta_checkpoint(BY_NAME[name]), folder)
        if not checklist:
            (folder / "checklist.chk").unlink()
        return folder

    return made


@pytest.fixture(scope="session")
def converted(meta_checkpoint: Callable[[Case], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 3-2shards in Hugging Face's format, four weight files; read only."""
    folder = tmp_path_factory.mktemp("converted") / "huggingface"
    source = meta_checkpoint(BY_NAME["3-2shards"])
    with own_handler():
        assert main(["convert", str(source), str(folder), "-q", "--shard-size", "1MB"]) == 0
    return folder


@pytest.fixture
def made(converted: Path) -> Path:
    """A converted folder of the test's own, in the folder it runs in."""
    return Path(shutil.copytree(converted, "made"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `meta-VERSION` and `hf-VERSION`, several weight files each; heads are tied in 3.2 alone. Read only."""
    place = tmp_path_factory.mktemp("folders")
    for version in ("2", "3", "3.1", "3.2"):
        model = random_model(version)
        meta = write_meta(model, place / f"meta-{version}", tokenizer=model.tokenizer)
        with own_handler():
            assert main(["convert", str(meta), str(place / f"hf-{version}"), "-q", "--shard-size", "500kB"]) == 0
    return place


@pytest.fixture
def hf(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    """version -> a copy of its folder in Hugging Face's format, which the test may change."""
    return lambda version: Path(shutil.copytree(folders / f"hf-{version}", tmp_path / f"hf-{version}"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the command runs in an empty folder."""
    folder = tmp_path / "home" / "hub"
    folder.mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def refuses(run: Callable[..., Result], output: Path) -> Callable[..., str]:
    """(source, options, status) -> the text of the refusal; nothing is left on disk, and advice is given."""

    def refused(source: Path, *options: object, status: int = 3) -> str:
        result = run("convert", source, output, *options)
        check_refusal(result, status)
        assert leftovers(output) == []
        return "\n".join(result.complaint)

    return refused


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Someone at a machine that knows the fake Hub, which is empty."""
    home = tmp_path / "home"
    home.mkdir()
    with FakeHub() as hub:
        yield User(hub, home)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A Hub that this process takes for the real one, without a token; nothing may stay in the temporary folder."""
    constants = huggingface_hub.constants
    scratch = tmp_path / "temporary"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TOKEN_PATH", "HUB_CACHE"):
        monkeypatch.setattr(constants, f"HF_{name}", str(tmp_path / name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
    assert list(scratch.iterdir()) == []


@pytest.fixture
def add(hub: FakeHub) -> Add:
    """(prefix=folder, ...) -> the Hub with the files of these folders, gated or not."""

    def added(gated: bool = False, **folders: Path) -> FakeHub:
        files = {
            f"{prefix}/{path.relative_to(folder).as_posix()}".removeprefix("root/"): path
            for prefix, folder in folders.items()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and (prefix != "root" or "original" not in path.parts)
        }
        hub.add(NAME, files, gated=gated)
        return hub

    return added


@pytest.fixture(scope="session")
def gguf(meta_checkpoint: Callable[[Case], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 3-2shards in two GGUF files."""
    folder = tmp_path_factory.mktemp("gguf") / "gguf"
    plan = plan_conversion(meta_checkpoint(BY_NAME["3-2shards"]), to="gguf", request=Request(shard_size=1_500_000))
    convert_checkpoint(plan, folder)
    return folder


def as_files(folder: Path, below: str = "") -> dict[str, bytes | Path | None]:
    return {f"{below}{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def herd(
    user: User,
    meta_checkpoint: Callable[[Case], Path],
    converted: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> FakeHub:
    """One model in Meta's format and in Hugging Face's, known to this process, too."""
    request.getfixturevalue("no_user")
    monkeypatch.setenv("HOME", str(user.home))
    monkeypatch.chdir(user.home)
    point_at(user.hub, monkeypatch, user.home / ".cache")
    original = as_files(meta_checkpoint(BY_NAME["3-2shards"]), "original/")
    user.hub.add(NAME, {**original, **as_files(converted), "README.md": b"A model."})
    user.hub.add(OTHER, original)
    return user.hub


def check_refusal(result: Result, status: int) -> None:
    """One line that says what is wrong, indented details, one line of advice."""
    assert result.status == status, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    first, *details, advice = result.complaint
    assert first.removeprefix("llama-convert: ").strip()
    assert all(line.startswith("  ") for line in details), result.err
    assert advice[:1].isupper(), "the last line is no advice"
    assert advice.endswith((".", "?", "login", "pull")), advice
