"""The Hub: what is stored, and its two listeners."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any

from tests.hub.fake_hub import reading, writing, xet
from tests.hub.fake_hub.access import Account
from tests.hub.fake_hub.answers import Answer, Call, faulty_status, refusal
from tests.hub.fake_hub.contents import Blob, Repository
from tests.hub.fake_hub.faults import NONE, FaultBook, Faults
from tests.hub.fake_hub.files import Signer, cdn_answer
from tests.hub.fake_hub.records import Log, Request
from tests.hub.fake_hub.serving import Listener

_NAME = r"([^/]+(?:/[^/]+)?)"
_REVISION = r"([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", r"/api/whoami-v2", reading.current_user),
    ("POST", r"/api/repos/create", writing.create),
    ("POST", r"/api/validate-yaml", writing.validate_yaml),
    ("GET", rf"/api/models/{_NAME}/tree/{_REVISION}(?:/(.*))?", reading.tree),
    ("POST", rf"/api/models/{_NAME}/paths-info/{_REVISION}", reading.paths_info),
    ("GET", rf"/api/models/{_NAME}/auth-check(?:/(write))?", reading.auth_check),
    ("GET", rf"/api/models/{_NAME}/refs", reading.refs),
    ("GET", rf"/api/models/{_NAME}/discussions(?:/(\d+))?", reading.discussions),
    ("POST", rf"/api/models/{_NAME}/discussions", writing.open_pull_request),
    ("GET", rf"/api/models/{_NAME}/xet-(read|write)-token/{_REVISION}", xet.token),
    ("POST", rf"/api/models/{_NAME}/preupload/{_REVISION}", writing.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/{_REVISION}", writing.commit),
    ("GET", rf"/api/models/{_NAME}/revision/{_REVISION}", reading.model_info),
    ("GET", rf"/api/models/{_NAME}", reading.model_info),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", writing.lfs_batch),
    ("GET", rf"/{_NAME}/resolve/{_REVISION}/(.+)", reading.resolve),
)


class FakeHub:
    """A Hub on this machine. With `with` it listens, on ports of the system's choice.

    tokens: token -> Account. scan: what scanners say of every repository, where that is asked for. page_size: entries
    of a tree listing's page. xet: off; True: files come over Xet from a local storage; "stalled": over Xet from a
    storage that accepts connections and never answers.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, Account] = {}
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.blobs: dict[str, Blob] = {}
        self.xet_hashes: dict[str, str] = {}
        self.scan: dict[str, Any] | None = None
        self.page_size = 1000
        self.xet: bool | str = False
        self.lock = RLock()
        self.closing = Event()
        self.log = Log()
        self._listeners: list[Listener] = []

    def __enter__(self) -> FakeHub:
        self.folder = Path(tempfile.mkdtemp(prefix="fake-hub-"))
        self.faults = NONE
        self._dead = socket.create_server(("127.0.0.1", 0))  # connections are accepted by the system, and that is all
        hub, cdn = (Listener(self, name, answer) for name, answer in (("hub", self._answer), ("cdn", self._cdn)))
        self._listeners = [hub, cdn]
        self.url = f"http://127.0.0.1:{hub.server_port}"
        self.cdn_url = f"http://localhost:{cdn.server_port}"
        for listener in self._listeners:
            Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for listener in self._listeners:
            listener.stop()
        self._dead.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path | None],
        gated: bool | str = False,
        revision: str = "main",
        private: bool = False,
    ) -> str:
        """A commit: the branch's files with these changed, and those given as None removed. Its 40-hex hash."""
        repository = self.repositories.setdefault(name, Repository(name))
        repository.gated, repository.private = gated, private
        blobs = {path: None if data is None else self.keep(Blob.of(data)) for path, data in files.items()}
        return repository.commit(blobs, revision, "add files").oid

    def rename(self, old: str, new: str) -> None:
        """The old name leads to the new one from now on."""
        repository = self.repositories.pop(old)
        repository.name = new
        self.repositories[new] = repository
        self.renamed[old] = new

    def remove(self, name: str) -> None:
        """There is no such repository any more."""
        del self.repositories[name]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        commit = self.repositories[name].at(revision)
        return {path: blob.read() for path, blob in commit.files.items()} if commit else {}

    @property
    def faults(self) -> tuple[Faults, ...]:
        """What goes wrong from now on: one Faults or several. Setting it starts all counts anew."""
        return self.book.faults

    @faults.setter
    def faults(self, faults: Faults | Sequence[Faults]) -> None:
        self.book = FaultBook(faults)
        self.signer = Signer(self.signer.secret) if hasattr(self, "signer") else Signer()

    @property
    def requests(self) -> list[Request]:
        """All requests since the start or `clear`, those under way as they are now."""
        return self.log.requests()

    def sent_bytes(self) -> int:
        """Bytes of files that the CDN has sent."""
        return sum(request.sent_bytes for request in self.requests if request.host == "cdn")

    def clear(self) -> None:
        """Forget the requests."""
        self.log.clear()

    def keep(self, blob: Blob) -> Blob:
        """The blob, in the storage."""
        return self.blobs.setdefault(blob.sha256, blob)

    @property
    def cas_url(self) -> str:
        """Where Xet's storage is."""
        if self.xet == "stalled":
            return f"http://127.0.0.1:{self._dead.getsockname()[1]}"
        return f"local://{self.folder / 'cas'}"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to take this for the Hub."""
        values = {
            "HF_ENDPOINT": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return values | ({} if self.xet else {"HF_HUB_DISABLE_XET": "1"})

    def _answer(self, call: Call) -> Answer:
        """The Hub's answer, by its routes."""
        if call.path.startswith("/api/"):
            wrong = faulty_status(self.book.strike("api", call.path))
            if wrong is not None:
                return wrong
        method = "GET" if call.method == "HEAD" else call.method
        for asked, pattern, route in _ROUTES:
            found: Any = re.fullmatch(pattern, call.path) if asked == method else None
            if found:
                return route(self, call, *(group for group in found.groups() if group is not None))
        raise refusal(404, f"no such route: {call.method} {call.path}")

    def _cdn(self, call: Call) -> Answer:
        return cdn_answer(self, call)
