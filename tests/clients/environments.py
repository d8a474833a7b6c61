"""The clients, each with the versions that were tried, and the environment of its own that it runs in.

Environments are kept in .clients/ and made again when what they should hold changes.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2] / ".clients"
JUDGES = Path(__file__).parent / "judges"
TORCH = "torch==2.13.0"  # pinned: an open range would fetch gigabytes of CUDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """packages come with what they need; alone come without; of archives, source code, only llama.cpp is kept."""

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    archive: str | None = None

    @property
    def python(self) -> Path:
        return ROOT / self.name / "bin" / "python"


CLIENTS = {
    client.name: client
    for client in (
        Client(name="xllamacpp", packages=("xllamacpp==2026.10.11549", "numpy==2.4.6")),
        # 0.14.0's wheel is broken
        Client(name="tinygrad", packages=("tinygrad==0.13.0", "numpy==2.4.6")),
        Client(name="mlx", packages=("mlx[cpu]==0.32.4", "mlx-lm==0.32.2", "transformers==5.23.0")),
        # other versions of torchao break the import of torchtune 0.6.1
        Client(name="torchtune", packages=(TORCH, "torchtune==0.6.1", "torchao==0.13.0")),
        Client(name="litgpt", packages=(TORCH, "litgpt==0.5.13")),
        Client(
            name="llamacpp-converter",
            packages=(TORCH, "transformers==4.57.6", "sentencepiece==0.2.1", "protobuf<5", "gguf==0.19.0"),
            archive="llama-cpp-python==0.3.36",
        ),
        # with its dependencies it would bring TensorFlow
        Client(
            name="scratch", packages=(TORCH, "tiktoken==0.14.0", "numpy==2.4.6"), alone=("llms-from-scratch==1.0.19",)
        ),
    )
}


def set_up(client: Client) -> None:
    """Make the client's environment, unless it is there and holds what it should."""
    folder = ROOT / client.name
    installed = folder / "installed"
    wanted = f"{client}\n"
    if installed.exists() and installed.read_text() == wanted:
        return
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip(client, "install", *client.packages)
    if client.alone:
        pip(client, "install", "--no-deps", *client.alone)
    if client.archive:
        unpack_llama_cpp(client, client.archive)
    installed.write_text(wanted)
    print(f"{client.name}: installed in {time.monotonic() - started:.0f} s", flush=True)


def pip(client: Client, command: str, *arguments: str | Path) -> None:
    """RuntimeError with pip's last words where it fails."""
    options = ("--disable-pip-version-check", command, "--quiet")
    done = subprocess.run(
        [client.python, "-m", "pip", *options, *arguments], check=False, stderr=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"pip {command}: {' '.join(done.stderr.strip().splitlines()[-2:])}")


def unpack_llama_cpp(client: Client, archive: str) -> None:
    """Its converter is not on PyPI by itself; the source archive of llama-cpp-python holds all of llama.cpp."""
    downloads = ROOT / client.name / "downloads"
    pip(client, "download", "--no-deps", "--no-binary", ":all:", "--dest", downloads, archive)
    (path,) = downloads.glob("*.tar.gz")
    inside = f"{path.name.removesuffix('.tar.gz')}/vendor/llama.cpp/"
    with tarfile.open(path) as file:
        wanted = [member for member in file.getmembers() if member.name.startswith(inside) and needed(member.name)]
        for member in wanted:
            member.name = member.name.removeprefix(inside)
        file.extractall(ROOT / client.name / "llama.cpp", members=wanted, filter="data")
    shutil.rmtree(downloads)


def needed(name: str) -> bool:
    return any(part in name for part in ("/convert_hf_to_gguf.py", "/conversion/", "/gguf-py/"))
