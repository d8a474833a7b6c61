"""The wheel holds what the folders hold, and runs where nothing else of the repository is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "convert", "hub", "verify")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
LARGEST_MODEL = 4 << 20  # bytes


def shipped() -> set[str]:
    """Every file that an installation needs, as it is called in the wheel."""
    kinds = ("*.py", "py.typed", "embedded/*", "templates/*")
    found = {path for folder in FOLDERS for kind in kinds for path in (ROOT / folder).rglob(kind)}
    return {f"llama_convert/{path.relative_to(ROOT).as_posix()}" for path in found if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel built from a copy, so that no build folder of an earlier day gets into it or stays behind."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", *PROJECT["project"]["license-files"], PROJECT["project"]["readme"]):
        shutil.copy(ROOT / name, copy / name)
    command = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    run([sys.executable, "-c", command, str(out)], cwd=copy)
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    wheel.extractall(folder)
    return folder


def test_every_package_folder_is_listed():
    """A missing one would still work where the project is installed editable, and be absent from the wheel."""
    folders = {path.parent.relative_to(ROOT) for name in FOLDERS for path in (ROOT / name).rglob("__init__.py")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(".".join(("llama_convert", *folder.parts)) for folder in folders)


def test_no_module_lies_outside_a_package():
    assert [
        path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if not (path.parent / "__init__.py").exists()
    ] == []


def test_the_wheel_holds_every_file_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert len(shipped()) > 50
    assert files == shipped()


def test_it_has_what_is_not_python(wheel):
    files = set(wheel.namelist())
    assert {f"llama_convert/{name}/py.typed" for name in FOLDERS} <= files
    embedded = {"consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model", "checklist.chk"}
    assert {f"llama_convert/cli/embedded/{name}" for name in embedded} <= files
    assert any(name.endswith(".jinja") for name in files)


def test_site_packages_gains_one_name(unpacked):
    names = {path.name for path in unpacked.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"llama_convert"}
    assert len(names) == 2
    assert not (unpacked / "llama_convert" / "__init__.py").exists()  # a namespace, for the four packages


def test_the_embedded_model_is_small(wheel):
    sizes = [info.file_size for info in wheel.infolist() if "/embedded/" in info.filename]
    assert 100_000 < sum(sizes) <= LARGEST_MODEL


def test_every_module_can_be_imported_from_the_wheel_alone(unpacked, tmp_path):
    names = [
        path.relative_to(unpacked).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in (unpacked / "llama_convert").rglob("*.py")
    ]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    place = importlib.import_module(name).__file__\n"
        "    assert place.startswith(sys.argv[1]), (name, place)\n"
    )
    run_with(unpacked, tmp_path, "-c", program, str(unpacked), *names)


def test_the_command_runs_from_the_wheel_alone(unpacked, tmp_path):
    program = "import sys; from llama_convert.cli import main; sys.exit(main(['--help']))"
    assert "convert" in run_with(unpacked, tmp_path, "-c", program)


def test_a_users_own_convert_py_is_not_ours(unpacked, tmp_path):
    for name in FOLDERS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    run_with(unpacked, tmp_path, "-c", "import llama_convert.cli.app, llama_convert.convert, llama_convert.hub")


def run_with(site_packages: Path, folder: Path, *arguments: str) -> str:
    return run([sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(site_packages)})


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- metadata ------------------------------------------------------------------------------------


def test_the_oldest_python_is_said_alike_everywhere():
    assert PROJECT["project"]["requires-python"] == ">=3.10"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py310"
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.10"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_dependencies_have_lower_bounds_only(requirement):
    """Upper bounds make packages impossible to install together; the Hub's next major has announced a break."""
    operators = sorted(specifier.operator for specifier in requirement.specifier)
    assert operators == (["<", ">="] if requirement.name == "huggingface_hub" else [">="])


def constraints() -> dict[str, list[str]]:
    """The versions a name is pinned to; more than one where they depend on the Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("#")[0].split(";")[0].strip() for line in lines]
    matches = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in pinned if line]
    assert all(matches), [line for line in pinned if line]
    versions: dict[str, list[str]] = {}
    for match in filter(None, matches):
        versions.setdefault(normal(match[1]), []).append(match[2])
    return versions


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_constraints_pin_every_dependency_to_a_version_it_allows(requirement):
    for version in constraints()[normal(requirement.name)]:
        assert version in requirement.specifier
