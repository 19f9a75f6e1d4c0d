# SPDX-License-Identifier: GPL-2.0-or-later
"""What `server.py check` finds: right, wrong, and soon to be wrong."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from chatgpt_rest.checkup import Finding, checkup
from chatgpt_rest.clock import DAY, SECOND, iso
from chatgpt_rest.config import Config
from chatgpt_rest.context import SYNC
from chatgpt_rest.control import control_over, serve_control
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import small_disk
from tests.house import NOON, House, ManualClock, make_config, open_house

WEEK_SECONDS = 7 * DAY / SECOND


@pytest.fixture
def config(tmp_path: Path, base_url: str) -> Config:
    """A mirror that does not exist yet, and a ChatGPT that can be reached."""
    return make_config(tmp_path, base_url)


@pytest.fixture
async def account(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> str:
    """The mirror holds an account whose token is valid for ten days; no server runs."""
    chatgpt.alice.many(3)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.auth.adopt(Secret(chatgpt.alice.token()))
    return chatgpt.alice.user_id


def found(findings: list[Finding], about: str) -> Finding:
    """The one finding that begins so."""
    (finding,) = [finding for finding in findings if finding.text.startswith(about)]
    return finding


async def test_a_fresh_installation_is_right_but_for_its_accounts(config: Config, clock: ManualClock) -> None:
    """Nothing is wrong where nothing was done yet, and the next step is told."""
    findings = await checkup(config, clock)
    assert {finding.verdict for finding in findings} == {"right", "soon"}
    assert found(findings, "accounts").remedy == "send a request with an access token"
    assert "none is running" in found(findings, "server").text


async def test_looking_costs_no_request(
    config: Config, clock: ManualClock, account: str, chatgpt: SimulatedChatGPT
) -> None:
    """Whether upstream can be reached is seen from a connection; no request is sent on it."""
    asked = chatgpt.received()
    findings = await checkup(config, clock)
    assert found(findings, "upstream").verdict == "right"
    assert "50 of 50" not in found(findings, f"account {account}").text
    assert chatgpt.received() == asked == 1


@pytest.mark.parametrize(
    ("moved", "verdict"),
    [
        (0, "right"),
        (10 * 86400 - WEEK_SECONDS - 60, "right"),
        (10 * 86400 - WEEK_SECONDS + 60, "soon"),
        (10 * 86400 - 60, "soon"),
        (10 * 86400, "wrong"),
    ],
    ids=["fresh", "more than a week", "less than a week", "a minute", "over"],
)
async def test_a_token_that_ends_is_told_a_week_ahead(
    config: Config, clock: ManualClock, account: str, moved: float, verdict: str
) -> None:
    """Right, then soon, then wrong; and from the week before on, what to do."""
    clock.move(seconds=moved)
    finding = found(await checkup(config, clock), f"account {account}")
    assert finding.verdict == verdict
    assert ("access token expired" if verdict == "wrong" else "access token until") in finding.text
    assert "3 conversations" in finding.text
    assert finding.remedy == ("" if verdict == "right" else "give a new one: server.py token")


async def test_an_account_without_a_token_is_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Once upstream refused its only token, the account can just be read, and what to do is told."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="bad_token")
    await house.client.post("/conversations/new", data={"prompt": "?"})
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        finding = found(await checkup(house.config, house.clock), "account")
    assert (finding.verdict, finding.remedy) == ("soon", "give a new one: server.py token")
    assert "no access token known" in finding.text


async def test_what_sync_has_left_to_do_is_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """How many conversations are stale and gone, and when the last full sweep was."""
    gone, *_ = chatgpt.alice.many(3)
    await house.client.get("/conversations")
    gone.delete()
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        before = found(await checkup(house.config, house.clock), "sync of")
        await house.app[SYNC].advance(chatgpt.alice.user_id)
        after = found(await checkup(house.config, house.clock), "sync of")
    told = "{} conversations stale, 0 set aside, {} missing upstream, last full sweep {}"
    assert (before.verdict, after.verdict) == ("right", "right")
    assert before.text.endswith(told.format(3, 0, "never"))
    assert after.text.endswith(told.format(0, 1, iso(NOON)))


async def test_what_is_set_aside_is_not_right(house: House, chatgpt: SimulatedChatGPT) -> None:
    """How it is tried again is told."""
    (broken,) = chatgpt.alice.many(1)
    await house.client.get("/conversations")
    for _ in range(3):
        await house.mirror.of(chatgpt.alice.user_id).backlog.note_failure(broken.id, "upstream_broken")
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        finding = found(await checkup(house.config, house.clock), "sync of")
    assert (finding.verdict, finding.remedy) == ("soon", "try them again: server.py sync --full")
    assert "1 set aside" in finding.text


@pytest.mark.parametrize(
    ("fault", "verdict", "told", "remedy"),
    [
        ("bad_token", "wrong", "paused, ChatGPT refused the access token", "give a new one: server.py token"),
        (
            "server_error",
            "soon",
            r"ChatGPT is let rest until 20\S+: upstream failed \(500\) \(upstream_broken\)",
            "it is tried again by itself",
        ),
        ("hourly_limit", "soon", r"paused until 20\S+ by ChatGPT's own limit", "wait"),
    ],
)
async def test_what_stops_sync_is_told_once(
    house: House, chatgpt: SimulatedChatGPT, *, fault: str, verdict: str, told: str, remedy: str
) -> None:
    """A refused token is wrong, as it takes somebody to give a new one; all else passes, and until when is told."""
    chatgpt.alice.many(3)
    await house.client.get("/conversations")
    chatgpt.fault(error=fault)
    await house.app[SYNC].advance(chatgpt.alice.user_id)
    about = f"sync of {chatgpt.alice.user_id}: "
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        _, finding = [each for each in await checkup(house.config, house.clock) if each.text.startswith(about)]
    assert (finding.verdict, finding.remedy) == (verdict, remedy)
    assert re.fullmatch(re.escape(about) + told, finding.text)


async def test_what_went_wrong_last_is_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Also where it stops nothing: one conversation failed while others came."""
    broken, *_ = chatgpt.alice.many(3)
    await house.client.get("/conversations")
    chatgpt.fault(f"conversation/{broken.id}", error="server_error")
    await house.app[SYNC].advance(chatgpt.alice.user_id)
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        findings = await checkup(house.config, house.clock)
    finding = found(findings, f"sync of {chatgpt.alice.user_id}: failed last at {iso(NOON)}")
    assert (finding.verdict, finding.remedy) == ("soon", "it is tried again by itself")
    assert "(upstream_broken)" in finding.text


async def test_sync_that_waits_for_a_token_is_told(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, account: str
) -> None:
    """A server that was restarted has none until somebody brings one; where no server runs, that is no news."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        async with serve_control(control_over(house.app, clock), house.config.control_socket):
            findings = await checkup(house.config, clock)
        finding = found(findings, f"sync of {account}: paused")
        assert (finding.verdict, finding.remedy) == ("soon", "give a new one: server.py token")
        assert finding.text.endswith("no access token is at hand")
    assert not [each for each in await checkup(house.config, clock) if "paused" in each.text]


async def test_sync_that_is_off_is_told(config: Config, clock: ManualClock) -> None:
    """With the key that turns it on; where it is on, nothing is said."""
    off = replace(config, sync=replace(config.sync, enabled=False))
    assert found(await checkup(off, clock), "sync: off").remedy == "[sync] enabled = true"
    assert not [each for each in await checkup(config, clock) if each.text.startswith("sync: ")]


async def test_a_limit_of_chatgpt_s_own_is_told(house: House, chatgpt: SimulatedChatGPT) -> None:
    """An account that upstream holds back is no riddle: until when is said."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="hourly_limit")
    await house.client.post("/conversations/new", data={"prompt": "?"})
    async with serve_control(control_over(house.app, house.clock), house.config.control_socket):
        finding = found(await checkup(house.config, house.clock), "account")
    assert (finding.verdict, finding.remedy) == ("soon", "wait")
    assert "0 of 50 requests left, held back by ChatGPT's own limit until 20" in finding.text


async def test_the_running_server_is_asked(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where a server runs, what it holds is looked at through its socket."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await house.client.get("/conversations")
        async with serve_control(control_over(house.app, clock), house.config.control_socket):
            findings = await checkup(house.config, clock)
    assert found(findings, "server: running as process").verdict == "right"
    assert found(findings, "account").verdict == "right"


async def test_a_mirror_in_use_without_a_socket_is_wrong(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A process that holds the mirror and cannot be reached is told with its number."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        findings = await checkup(house.config, clock)
    assert "is in use by process" in found(findings, "mirror").text
    assert found(findings, "mirror").verdict == "wrong"


async def test_an_upstream_that_cannot_be_reached_is_wrong(tmp_path: Path, clock: ManualClock) -> None:
    """It is named, with the reason and the comfort that reading goes on."""
    findings = await checkup(make_config(tmp_path, "http://127.0.0.1:9/backend-api/"), clock)
    finding = found(findings, "upstream")
    assert (finding.verdict, finding.remedy) == ("wrong", "reading goes on without it")
    assert "Connect" in finding.text


async def test_an_upstream_without_tls_is_wrong_off_this_machine(config: Config, clock: ManualClock) -> None:
    """Tokens would travel in clear; no connection is made to find out more."""
    upstream = replace(config.upstream, base_url="http://chatgpt.example/backend-api/")
    finding = found(await checkup(replace(config, upstream=upstream), clock), "upstream")
    assert finding.verdict == "wrong"
    assert "in clear" in finding.text


async def test_an_upstream_that_speaks_no_tls_is_wrong(config: Config, clock: ManualClock) -> None:
    """A server in place of upstream that cannot prove its name is not right."""
    upstream = replace(config.upstream, base_url=config.upstream.base_url.replace("http:", "https:"))
    assert found(await checkup(replace(config, upstream=upstream), clock), "upstream").verdict == "wrong"


@pytest.mark.parametrize("damage", ["head", "middle"])
async def test_a_damaged_mirror_is_wrong(config: Config, clock: ManualClock, account: str, damage: str) -> None:
    """What SQLite finds wrong with the file is a finding, not a crash."""
    assert account
    content = bytearray(config.mirror.path.read_bytes())
    begin = 0 if damage == "head" else 3 * 4096
    content[begin : begin + 40 * 4096] = b"\xa5" * len(content[begin : begin + 40 * 4096])
    config.mirror.path.write_bytes(content)
    findings = await checkup(config, clock)
    assert any(finding.text.startswith("mirror: ") and finding.verdict == "wrong" for finding in findings)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize(("size_mib", "is_enough"), [(16, False), (120, True)], ids=["nearly full", "enough"])
async def test_a_disk_that_is_nearly_full_is_wrong(
    tmp_path: Path, base_url: str, clock: ManualClock, size_mib: int, *, is_enough: bool
) -> None:
    """Less than 100 MiB where the mirror is are told, with how much there is and what to do; more is no finding."""
    with small_disk(tmp_path / "disk", size_mib=size_mib) as folder:
        findings = await checkup(make_config(folder, base_url), clock)
    about = [finding for finding in findings if finding.text.startswith("disk: ")]
    assert len(about) == (0 if is_enough else 1)
    for finding in about:
        assert (finding.verdict, finding.remedy) == ("wrong", "make room")
        assert "disk: 15 MiB are left where the mirror is" in finding.text
