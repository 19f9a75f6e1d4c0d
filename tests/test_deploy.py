# SPDX-License-Identifier: GPL-2.0-or-later
"""The unit in deploy/, judged by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
UNIT = CHECKOUT / "deploy" / "chatgpt-rest.service"
EXPOSURE_TIMES_TEN = 11  # 1.1, what is left being the network and /proc

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@systemd
def test_systemd_has_no_complaint_about_the_unit(tmp_path: Path) -> None:
    """Every line is known to systemd and has a value it accepts."""
    unit = tmp_path / UNIT.name
    # systemd also looks for the program, which stands in /opt only where the server is installed.
    unit.write_text(re.sub(r"/opt/chatgpt-rest/\.venv/bin/python", sys.executable, UNIT.read_text()))
    # Without --recursive-errors=no a mistyped option is printed and the exit status is 0 all the same.
    verdict = _systemd_analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (verdict.returncode, verdict.stdout) == (0, "")


@systemd
def test_the_verification_finds_a_typo(tmp_path: Path) -> None:
    """The test above would fail if an option's name were mistyped."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ProtectHome=", "ProtectHomes="))
    verdict = _systemd_analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    assert verdict.returncode != 0
    assert "ProtectHomes" in verdict.stdout


@systemd
def test_the_sandbox_is_as_tight_as_promised() -> None:
    """The exposure that systemd computes does not grow unnoticed."""
    verdict = _systemd_analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE_TIMES_TEN}", "--no-pager", str(UNIT)
    )
    assert verdict.returncode == 0, verdict.stdout


def test_every_hardening_option_has_its_reason() -> None:
    """Each group of options in [Service] stands under a comment that says why it is there."""
    service = UNIT.read_text().split("[Service]")[1].split("[Install]")[0]
    blocks = [block for block in service.split("\n\n") if block.strip()]
    assert [block for block in blocks if not block.strip().startswith("#")] == []


def test_a_drain_is_not_cut_short() -> None:
    """systemd waits longer for the stop than the server lets its answers under way take."""
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)
    assert stop is not None
    drain_seconds = tomllib.loads((CHECKOUT / "config.toml").read_text())["server"]["drain_seconds"]
    assert int(stop[1]) >= drain_seconds + 10


def test_the_boot_id_stays_readable() -> None:
    """The budget's clock reads /proc/sys/kernel/random/boot_id, which ProcSubset=pid would hide."""
    assert "\nProcSubset=" not in UNIT.read_text()


def _systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Both streams arrive in `stdout`."""
    return subprocess.run(
        ["systemd-analyze", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
