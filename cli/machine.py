"""What this machine has to work with."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llama_convert.cli.output import gigabytes
from llama_convert.hub.cache import cache_folder
from llama_convert.hub.doctor import Check

_PACKAGES = ("llama-convert", "numpy", "torch", "tokenizers", "huggingface_hub", "hf_xet", "transformers")
_GB = 10**9
_DISK, _MEMORY = 20 * _GB, 2 * _GB  # bytes: an 8B model in bfloat16 has 16.1 GB; proving it takes 1.2 GB
_MEMINFO = Path("/proc/meminfo")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def machine_checks() -> Iterator[Check]:
    """Versions, device, free disk and memory. Imports torch. No network."""
    yield Check(name="python", status="ok", found=f"{platform.python_version()} on {platform.system()}")
    yield from map(_package, _PACKAGES)
    yield _device()
    yield _disk(
        "disk here", Path.cwd(), "Work on another disk, or free some space: llama-convert du shows what is taken."
    )
    yield _cache()
    yield _memory()


def _package(name: str) -> Check:
    try:
        return Check(name=name, status="ok", found=version(name))
    except PackageNotFoundError:
        return Check(name=name, status="ok", found="not installed")


def _device() -> Check:
    try:
        from llama_convert.verify.devices import choose

        return Check(name="device", status="ok", found=choose().name)
    except (ImportError, OSError, RuntimeError) as error:
        return Check(
            name="device",
            status="problem",
            found=f"torch does not work: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            advice="Install it again: pip install --force-reinstall torch",
        )


def _disk(name: str, folder: Path, advice: str) -> Check:
    usage = shutil.disk_usage(folder)
    found = f"{gigabytes(usage.free)} of {gigabytes(usage.total)} free"
    if usage.free < _DISK:
        return Check(name=name, status="warning", found=f"{found}: too little for an 8B model", advice=advice)
    return Check(name=name, status="ok", found=found)


def _cache() -> Check:
    folder = cache_folder()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(place, os.W_OK):
        return Check(
            name="disk of the cache",
            status="warning",
            found=f"{folder}: may not be written",
            advice="Set HF_HOME to a folder of yours, or download with --to.",
        )
    found = _disk("disk of the cache", place, "Set HF_HOME to a folder on a larger disk.")
    return Check(name=found.name, status=found.status, found=f"{found.found}, {folder}", advice=found.advice)


def _memory() -> Check:
    total, available = _memory_bytes()
    if available is None:
        return Check(name="memory", status="ok", found=gigabytes(total))
    found = f"{gigabytes(available)} of {gigabytes(total)} free"
    if available < _MEMORY:
        advice = "Close other programs: to convert takes 0.2 GB, to prove the result 1 to 2 GB."
        return Check(name="memory", status="warning", found=found, advice=advice)
    return Check(name="memory", status="ok", found=found)


def _memory_bytes() -> tuple[int, int | None]:
    """All of it and what programs may still take; None where the system does not tell. A container's limit counts."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not _MEMINFO.exists():
        return total, None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    limit = min([total, *(int(text) for text in map(_text, _LIMITS) if text.isdecimal())])
    return limit, min(available, limit)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
