# SPDX-License-Identifier: GPL-2.0-or-later
"""What an installation gets: the wheel, the lock files and the licence."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import chatgpt_rest

CHECKOUT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_brings_every_migration(wheel: Path) -> None:
    """An installed server makes the same mirror as the checkout, byte for byte."""
    ours = {path.name: path.read_bytes() for path in (CHECKOUT / "migrations").glob("*.sql")}
    with ZipFile(wheel) as archive:
        paths = [Path(name) for name in archive.namelist() if name.startswith("chatgpt_rest/migrations/")]
        theirs = {path.name: archive.read(str(path)) for path in paths}
    assert ours
    assert theirs == ours


def test_the_wheel_brings_the_default_configuration(wheel: Path) -> None:
    """An installed server starts from the same config.toml as the checkout."""
    with ZipFile(wheel) as archive:
        assert archive.read("chatgpt_rest/config.toml") == (CHECKOUT / "config.toml").read_bytes()


def test_the_wheel_brings_every_module(wheel: Path) -> None:
    """No module of the package stays behind."""
    ours = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "chatgpt_rest").rglob("*.py")}
    with ZipFile(wheel) as archive:
        assert ours <= set(archive.namelist())


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Version, licence, command and the oldest Python are in the metadata."""
    with ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode().splitlines()
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    assert f"Version: {chatgpt_rest.__version__}" in metadata
    assert "License-Expression: GPL-2.0-or-later" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "chatgpt-rest = chatgpt_rest.cli:main" in commands


def test_revchatgpt_is_the_version_whose_internals_the_adapter_knows() -> None:
    """Its version is exact in the dependencies and in what is installed."""
    assert "revChatGPT==6.8.6" in _project()["dependencies"]
    assert _pins("requirements.lock")["revchatgpt"] == "6.8.6"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock: str) -> None:
    """An installation accepts the very files that were locked and no others."""
    without = [entry.split()[0] for entry in _entries(lock) if "--hash=sha256:" not in entry]
    assert without == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    """Where packages come from is the business of whoever installs them."""
    text = (CHECKOUT / lock).read_text()
    assert re.findall(r"://|--index|--extra-index|--find-links|--trusted-host", text) == []


@pytest.mark.parametrize(("lock", "development"), [("requirements.lock", False), ("requirements-dev.lock", True)])
def test_a_lock_holds_what_the_project_asks_for(lock: str, development: bool) -> None:
    """Each direct dependency is locked at a version that its range in pyproject.toml allows."""
    wanted = [Requirement(line) for line in _project()["dependencies"] + (_development() if development else [])]
    pins = _pins(lock)
    assert [str(one) for one in wanted if not one.specifier.contains(pins.get(canonicalize_name(one.name), "0"))] == []


def test_tests_run_with_the_versions_that_are_installed() -> None:
    """What the development lock adds changes no version of what a server runs with."""
    assert _pins("requirements.lock").items() <= _pins("requirements-dev.lock").items()


def test_every_source_file_names_its_licence() -> None:
    """The first line of each Python file is its SPDX identifier."""
    sources = [CHECKOUT / "server.py", *(CHECKOUT / "chatgpt_rest").rglob("*.py"), *(CHECKOUT / "tests").rglob("*.py")]
    first = "# SPDX-License-Identifier: GPL-2.0-or-later\n"
    assert [str(path) for path in sources if not path.read_text("utf-8").startswith(first)] == []


def test_the_licence_is_the_gpl() -> None:
    """The text of the licence that every file names comes with the project."""
    text = (CHECKOUT / "LICENSE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 2, June 1991" in text


@cache
def _pyproject() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def _project() -> dict[str, list[str]]:
    return _pyproject()["project"]


def _development() -> list[str]:
    return _pyproject()["dependency-groups"]["dev"]


def _entries(lock: str) -> list[str]:
    """Each locked package with its hashes, as one string."""
    lines = (
        line for line in (CHECKOUT / lock).read_text().splitlines(keepends=True) if not line.lstrip().startswith("#")
    )
    return "".join(lines).replace("\\\n", " ").splitlines()


def _pins(lock: str) -> dict[str, str]:
    pins = {}
    for entry in _entries(lock):
        name, _, version = entry.split()[0].partition("==")
        pins[name] = version
    return pins
