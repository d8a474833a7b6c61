"""Ranges of a file over Xet, the Hub's storage in chunks, through the Hub's own library for it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event, Lock
from typing import Any

from llama_convert.hub.errors import redacted
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.wire import HaltedError


class XetError(Exception):
    """Xet does not bring the file; plain ranges may."""


def offered(file: RemoteFile) -> bool:
    """Whether the Hub has the file in Xet, the library is here, and nobody has switched it off."""
    if file.entry.xet_hash is None:
        return False
    from huggingface_hub import constants

    try:
        import hf_xet  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return False
    return not constants.HF_HUB_DISABLE_XET


class XetFile:
    """The same file as a source of ranges. A call that hangs cannot be ended: use it in threads that nobody awaits."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._lock = Lock()
        self._streams: Any = None

    def pieces(
        self, start: int, stop: int, *, halted: Event | None = None, ranges_only: bool = False
    ) -> Generator[memoryview, None, None]:
        """The bytes from start to stop as they come. Raises XetError for whatever goes wrong."""
        del ranges_only
        position = start
        for piece in self._stream(start, stop):
            if halted is not None and halted.is_set():
                raise HaltedError
            position += len(piece)
            yield memoryview(piece)
        if position != stop:
            raise XetError(f"{position - start:,} bytes came of {stop - start:,}")

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        try:
            from hf_xet import XetFileInfo

            info = XetFileInfo(self._file.entry.xet_hash, self._file.size)
            yield from self._group().download_stream(info, start, stop)
        except Exception as error:  # the library raises bare RuntimeErrors, and other types in other versions
            raise XetError(f"{type(error).__name__}: {redacted(str(error))}") from error

    def _group(self) -> Any:
        """One connection for all streams. It renews its own token at the Hub; the user's token goes nowhere else."""
        from hf_xet import XetSession
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        with self._lock:
            if self._streams is None:
                snapshot = self._file.snapshot
                self._streams = XetSession().new_download_stream_group(
                    token_refresh_url=f"{constants.ENDPOINT}/api/models/{snapshot.repository}"
                    f"/xet-read-token/{snapshot.commit}",
                    token_refresh_headers=build_hf_headers(),
                )
            return self._streams
