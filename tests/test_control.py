# SPDX-License-Identifier: GPL-2.0-or-later
"""The owner's operations and the socket that leads to them."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import iso
from chatgpt_rest.control import Control, call_server, control_over, serve_control
from chatgpt_rest.errors import BadRequest, Conflict, MirrorError, NotFound, StartError
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import House


@pytest.fixture
def control(house: House) -> Control:
    """What the owner of the running server may do."""
    return control_over(house.app, house.clock)


@pytest.fixture
async def path(control: Control, tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of the running server."""
    path = tmp_path / "control.sock"
    async with serve_control(control, path):
        yield path


async def test_only_the_owner_can_open_the_socket(path: Path) -> None:
    """Its mode is 0600."""
    mode = os.lstat(path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_socket_goes_with_the_server(control: Control, tmp_path: Path) -> None:
    """After a stop nothing is left to connect to."""
    async with serve_control(control, tmp_path / "control.sock"):
        pass
    assert not (tmp_path / "control.sock").exists()


async def test_a_stale_socket_is_replaced(control: Control, tmp_path: Path) -> None:
    """What a process that was killed left behind does not stop the next one."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ConnectionError):
        await call_server(path, "list_keys", {})
    async with serve_control(control, path):
        assert await call_server(path, "list_keys", {}) == []


async def test_a_folder_in_its_place_stops_the_start(control: Control, tmp_path: Path) -> None:
    """What cannot be replaced is named, and left alone."""
    (tmp_path / "control.sock").mkdir()
    with pytest.raises(StartError, match=r"control\.sock: the control socket cannot be opened: Is a directory"):
        async with serve_control(control, tmp_path / "control.sock"):
            pass
    assert (tmp_path / "control.sock").is_dir()


async def test_a_path_too_long_for_a_socket_stops_the_start(control: Control, tmp_path: Path) -> None:
    """The kernel takes no more than 107 bytes."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(StartError, match=r"the control socket cannot be opened: .*path.* too long"):
        async with serve_control(control, folder / "control.sock"):
            pass


async def test_what_is_no_socket_is_no_server(tmp_path: Path) -> None:
    """Neither a missing file nor one of another kind is connected to."""
    (tmp_path / "file").write_text("not a socket")
    for name in ("file", "missing"):
        with pytest.raises(ConnectionError):
            await call_server(tmp_path / name, "list_keys", {})


async def test_a_server_that_dies_while_it_works_is_told(tmp_path: Path) -> None:
    """A command does not hang, and does not claim that something was done."""

    async def die(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(die, tmp_path / "dying.sock"):
        with pytest.raises(StartError, match="the running server did not answer"):
            await call_server(tmp_path / "dying.sock", "list_keys", {})


async def test_an_unknown_operation_is_told(path: Path) -> None:
    """A command of a newer version meets a server of an older one."""
    with pytest.raises(MirrorError, match="another version"):
        await call_server(path, "delete_everything", {})


async def test_a_key_is_made_through_the_socket(path: Path, house: House, chatgpt: SimulatedChatGPT) -> None:
    """The key that comes back works at once; the list shows it by name only."""
    await house.client.get("/conversations")
    made = await call_server(path, "create_key", {"name": "laptop", "account": chatgpt.alice.user_id})
    assert (await house.client.as_(made["key"]).get("/conversations")).status == 200
    listed = await call_server(path, "list_keys", {})
    assert listed == [{"name": "laptop", "account": chatgpt.alice.user_id, "created_at": iso(house.clock.now())}]


async def test_a_key_is_revoked_through_the_socket(path: Path, house: House, chatgpt: SimulatedChatGPT) -> None:
    """From the moment the command is answered, the key opens nothing."""
    await house.client.get("/conversations")
    made = await call_server(path, "create_key", {"name": "laptop", "account": chatgpt.alice.user_id})
    key = house.client.as_(made["key"])
    assert (await key.get("/conversations")).status == 200
    await call_server(path, "revoke_key", {"name": "laptop"})
    assert (await key.get("/conversations")).status == 401
    assert await call_server(path, "list_keys", {}) == []


async def test_a_refusal_comes_back_in_its_own_words(path: Path) -> None:
    """What the server says no with is what the command prints."""
    with pytest.raises(MirrorError, match="there is no key nobody") as raised:
        await call_server(path, "revoke_key", {"name": "nobody"})
    assert raised.value.code == "not_found"


async def test_a_token_is_given_through_the_socket(path: Path, house: House, chatgpt: SimulatedChatGPT) -> None:
    """It is proved, held in memory, and serves what keys of that account ask."""
    given = await call_server(path, "give_token", {"token": chatgpt.alice.token()})
    assert given["account"] == chatgpt.alice.user_id
    assert given["expires_at"] is not None
    made = await call_server(path, "create_key", {"name": "laptop", "account": chatgpt.alice.user_id})
    assert (await house.client.as_(made["key"]).post("/conversations/new", data={"prompt": "?"})).status == 201


async def test_a_forged_token_is_not_taken(path: Path) -> None:
    """The owner learns that upstream refused it."""
    with pytest.raises(MirrorError, match="does not accept the access token"):
        await call_server(path, "give_token", {"token": "made-up"})


@pytest.mark.parametrize("name", ["", " ", "a b", "-dash", "x" * 65, "ümlaut", "a\nb", "[red]", "../x"])
async def test_a_name_that_would_be_trouble_is_refused(control: Control, name: str) -> None:
    """Names of keys and accounts are short and plain."""
    for operation in (control.create_key, control.name_account):
        with pytest.raises(BadRequest, match="a name has letters"):
            await operation(name=name, account="user")


async def test_an_account_is_known_by_its_name(house: House, control: Control, chatgpt: SimulatedChatGPT) -> None:
    """A name works wherever an id does."""
    await house.client.get("/conversations")
    await control.name_account(chatgpt.alice.user_id, "alice")
    assert (await control.create_key("laptop", "alice"))["account"] == chatgpt.alice.user_id
    (account,) = await control.list_accounts()
    assert (account["id"], account["name"], account["email"]) == (chatgpt.alice.user_id, "alice", "alice@example.org")


async def test_a_name_stands_for_one_account(house: House, control: Control, chatgpt: SimulatedChatGPT) -> None:
    """Two accounts cannot be called the same."""
    await house.client.get("/conversations")
    await house.client_of(chatgpt.bob).get("/conversations")
    await control.name_account(chatgpt.alice.user_id, "work")
    with pytest.raises(Conflict, match="another account is called work already"):
        await control.name_account(chatgpt.bob.user_id, "work")


async def test_a_name_cannot_be_anothers_id(house: House, control: Control, chatgpt: SimulatedChatGPT) -> None:
    """Whoever names an account by its id means that one, whatever others are called."""
    await house.client.get("/conversations")
    await house.client_of(chatgpt.bob).get("/conversations")
    with pytest.raises(Conflict):
        await control.name_account(chatgpt.alice.user_id, chatgpt.bob.user_id)


async def test_an_unknown_account_is_told_with_those_there_are(house: House, control: Control) -> None:
    """The owner sees at once what could have been meant."""
    with pytest.raises(NotFound, match="none yet"):
        await control.create_key("laptop", "nobody")
    await house.client.get("/conversations")
    with pytest.raises(NotFound, match=house.chatgpt.alice.user_id):
        await control.create_key("laptop", "nobody")


async def test_an_account_without_a_token_has_no_expiry(
    house: House, control: Control, chatgpt: SimulatedChatGPT
) -> None:
    """After upstream refused its only token, the list says that there is none."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", error="bad_token")
    await house.client.post("/conversations/new", data={"prompt": "?"})
    (account,) = await control.list_accounts()
    report: dict[str, Any] = await control.report()
    assert account["token_expires_at"] is None
    assert report["accounts"][0]["token_expires_at"] is None
    assert not report["accounts"][0]["is_token_expired"]
