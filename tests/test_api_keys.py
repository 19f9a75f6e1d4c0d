# SPDX-License-Identifier: GPL-2.0-or-later
"""Local API keys and the configured access token: what a client without a token of its own reads and asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chatgpt_rest.app import prove_configured, running
from chatgpt_rest.auth import Auth, read_digest_key
from chatgpt_rest.context import AUTH
from chatgpt_rest.control import Control, control_over
from chatgpt_rest.errors import Conflict, MirrorError, StartError, Unauthorized
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client, House, ManualClock, make_config, open_house
from tests.rows import rows

AWAY = "http://127.0.0.1:9/backend-api/"


@pytest.fixture
def control(house: House) -> Control:
    """What the owner of the running server may do."""
    return control_over(house.app, house.clock)


async def key_of_alice(house: House, control: Control, name: str = "laptop") -> Client:
    """A client with a local key of Alice's account, whose token the server has seen."""
    await house.client.get("/conversations")
    made = await control.create_key(name, house.chatgpt.alice.user_id)
    return house.client.as_(made["key"])


async def test_a_key_reads_with_nothing_sent_upstream(
    house: House, control: Control, chatgpt: SimulatedChatGPT
) -> None:
    """A key reads what the mirror has of its account."""
    chatgpt.alice.many(2)
    key = await key_of_alice(house, control)
    asked = chatgpt.received()
    assert len((await key.get("/conversations")).json) == 2
    assert (await key.get("/budget")).json["used"] == 1
    assert chatgpt.received() == asked


async def test_a_key_asks_with_a_token_of_its_account(
    house: House, control: Control, chatgpt: SimulatedChatGPT
) -> None:
    """What a key asks goes upstream with a token that was verified for that account, and never the key itself."""
    key = await key_of_alice(house, control)
    assert (await key.post("/conversations/new", data={"prompt": "Hello?"})).status == 201
    assert chatgpt.requests[-1].account == chatgpt.alice.user_id
    assert key.authorization is not None
    assert all(key.authorization not in each.headers["Authorization"] for each in chatgpt.requests)


async def test_a_key_never_asks_with_anothers_token(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With only another account's token at hand, a key's ask is 503, and nothing leaves."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        key = await key_of_alice(house, control_over(house.app, clock))
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        key = house.client.as_(key.authorization)
        await house.client_of(chatgpt.bob).get("/conversations")
        asked = chatgpt.received()
        refused = await key.post("/conversations/new", data={"prompt": "Hello?"})
        assert (refused.status, refused.json["code"]) == (503, "no_access_token")
        assert chatgpt.received() == asked
        assert (await key.get("/conversations")).status == 200


async def test_a_key_with_no_token_at_hand_reads_but_fetches_nothing(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """After a restart nobody's token is in memory: reads go on, what would have to be fetched is 503."""
    (conversation,) = chatgpt.alice.many(1)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        key = await key_of_alice(house, control_over(house.app, clock))
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        key = house.client.as_(key.authorization)
        assert len((await key.get("/conversations")).json) == 1
        refused = await key.get(f"/conversations/{conversation.id}")
        assert (refused.status, refused.json["code"]) == (503, "no_access_token")


async def test_a_key_outlives_the_token_behind_it(house: House, control: Control, chatgpt: SimulatedChatGPT) -> None:
    """When upstream takes the token no more, the key still reads, and its asks say what is missing."""
    key = await key_of_alice(house, control)
    assert house.client.authorization is not None
    chatgpt.alice.revoke(house.client.authorization)
    for _ in range(2):
        refused = await key.post("/conversations/new", data={"prompt": "Hello?"})
        assert (refused.status, refused.json["code"]) == (503, "no_access_token")
    assert chatgpt.received("POST") == 1
    assert (await key.get("/conversations")).status == 200


async def test_a_key_asks_no_more_with_a_token_that_expired(
    house: House, control: Control, chatgpt: SimulatedChatGPT
) -> None:
    """A token that was seen is used while it is valid, and no longer."""
    await house.client.as_(chatgpt.alice.token(expires_in_seconds=60)).get("/conversations")
    key = house.client.as_((await control.create_key("laptop", chatgpt.alice.user_id))["key"])
    assert house.auth.accounts() == [chatgpt.alice.user_id]
    house.clock.move(seconds=61)
    refused = await key.post("/conversations/new", data={"prompt": "Hello?"})
    assert (refused.status, refused.json["code"]) == (503, "no_access_token")
    assert house.auth.accounts() == []


async def test_an_unknown_key_never_goes_upstream(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """What looks like a key of ours is never tried as an access token."""
    refused = await client.as_("Bearer cgrt_nobody-made-this-one").get("/conversations")
    assert (refused.status, refused.json["code"]) == (401, "api_key_invalid")
    assert chatgpt.received() == 0


async def test_a_revoked_key_opens_nothing_at_once(house: House, control: Control) -> None:
    """A key that was just used is worthless with the very next request."""
    key = await key_of_alice(house, control)
    assert (await key.get("/conversations")).status == 200
    await control.revoke_key("laptop")
    refused = await key.get("/conversations")
    assert (refused.status, refused.json["code"]) == (401, "api_key_invalid")


async def test_a_request_under_way_does_not_revive_a_revoked_key(house: House, control: Control) -> None:
    """A key that is looked up while it is revoked is not remembered as good."""
    key = await key_of_alice(house, control)
    requests = [asyncio.create_task(key.get("/conversations")) for _ in range(40)]
    await control.revoke_key("laptop")
    await asyncio.gather(*requests)
    assert (await key.get("/conversations")).status == 401


async def test_only_digests_are_kept(house: House, control: Control) -> None:
    """Neither key nor token can be read from the database."""
    key = await key_of_alice(house, control)
    assert key.authorization is not None
    assert house.client.authorization is not None
    stored = repr(rows(house, "select * from credential"))
    assert key.authorization not in stored
    assert house.client.authorization not in stored
    assert house.mirror.path.with_name("mirror.sqlite.key").stat().st_mode & 0o777 == 0o600


async def test_the_database_is_worth_nothing_without_its_key(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With another digest key, what the table of credentials proves is nothing."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        key = await key_of_alice(house, control_over(house.app, clock))
    (tmp_path / "mirror.sqlite.key").unlink()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert (await house.client.as_(key.authorization).get("/conversations")).status == 401


@pytest.mark.parametrize("accepts", ["auto", "yes", "no"])
async def test_a_key_works_whether_or_not_tokens_are_accepted(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, accepts: str
) -> None:
    """Where strangers' tokens are not accepted, none goes upstream; keys and the owner's token still work."""
    async with open_house(tmp_path, chatgpt, base_url, clock, auth__accept_access_tokens=accepts) as house:
        stranger = await house.client_of(chatgpt.bob).get("/conversations")
        assert stranger.status == (401 if accepts == "no" else 200)
        assert chatgpt.received(account=chatgpt.bob.user_id) == (accepts != "no")
        await house.auth.adopt(Secret(chatgpt.alice.token()))
        key = await control_over(house.app, clock).create_key("laptop", chatgpt.alice.user_id)
        assert (await house.client.as_(key["key"]).post("/conversations/new", data={"prompt": "?"})).status == 201


# ------------------------------------------------------------------------------------------- the configured token


@asynccontextmanager
async def configured(
    tmp_path: Path, base_url: str, clock: ManualClock, *, token: str | None = None, file: Path | None = None
) -> AsyncIterator[Auth]:
    """Auth of a server that was given a token from the environment, or a credentials file."""
    config = make_config(tmp_path, base_url)
    config = replace(config, access_token=Secret(token) if token else None, access_token_file=file)
    async with running(config, clock=clock) as app:
        yield app[AUTH]


async def test_the_configured_token_is_proved(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A token from the environment is checked upstream once, and then at hand for its account."""
    async with configured(tmp_path, base_url, clock, token=chatgpt.alice.token()) as auth:
        assert auth.has_new_configured()
        assert await auth.adopt_configured() == chatgpt.alice.user_id
        assert await auth.adopt_configured() == chatgpt.alice.user_id
        assert not auth.has_new_configured()
        assert (await auth.caller_of(chatgpt.alice.user_id)).account == chatgpt.alice.user_id
    assert chatgpt.received() == 1


async def test_the_configured_token_is_proved_when_it_is_needed(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where upstream was away at the start, the first request that needs the token proves it."""
    async with configured(tmp_path, base_url, clock, token=chatgpt.alice.token()) as auth:
        chatgpt.fault(error="html_403", times=1)
        with pytest.raises(MirrorError, match="cannot be checked now"):
            await auth.adopt_configured()
        clock.move(seconds=60)
        assert (await auth.caller_of(chatgpt.alice.user_id)).account == chatgpt.alice.user_id


async def test_a_configured_token_that_cannot_be_proved_is_let_rest(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """While upstream turns programs away, those who need the token do not spend a request each on asking again."""
    async with configured(tmp_path, base_url, clock, token=chatgpt.alice.token()) as auth:
        chatgpt.fault(error="html_403")
        for _ in range(20):
            with pytest.raises(MirrorError, match="no valid access token"):
                await auth.caller_of(chatgpt.alice.user_id)
        assert chatgpt.received() == 1
        clock.move(seconds=3600)
        chatgpt.clear_faults()
        assert auth.has_new_configured()
        assert await auth.adopt_configured() == chatgpt.alice.user_id


async def test_the_configured_token_is_let_rest_for_longer_and_longer(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """While upstream turns programs away, proving the token is tried after 1, 2, 4 … minutes, at most an hour apart."""
    chatgpt.fault(error="html_403")
    async with configured(tmp_path, base_url, clock, token=chatgpt.alice.token()) as auth:
        for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
            with pytest.raises(MirrorError, match="cannot be checked now"):
                await auth.adopt_configured()
            clock.move(seconds=60 * minutes - 1)
            assert not auth.has_new_configured()
            clock.move(seconds=1)
            assert auth.has_new_configured()


async def test_a_configured_token_that_tells_no_expiry_is_proved_each_month(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A server that runs for years does not lose its own token after thirty days."""
    page = {"items": [], "total": 0, "limit": 100, "offset": 0, "has_missing_conversations": False}
    chatgpt.fault("conversations", status=200, body=page)
    async with configured(tmp_path, base_url, clock, token="opaque") as auth:
        for _ in range(3):
            account = await auth.adopt_configured()
            assert account is not None
            assert (await auth.caller_of(account)).account == account
            clock.move(seconds=31 * 86_400)
            assert (await auth.caller_of(account)).account == account
    assert chatgpt.received() == 4


async def test_the_configured_token_serves_no_other_account(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Bob's key is not served with Alice's configured token."""
    async with configured(tmp_path, base_url, clock, token=chatgpt.alice.token()) as auth:
        with pytest.raises(MirrorError, match="no valid access token"):
            await auth.caller_of(chatgpt.bob.user_id)


async def test_the_credentials_file_is_read_again_when_it_changes(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A renewed token in the file is noticed while the old one is still valid."""
    file = tmp_path / "access_token"
    file.write_text(chatgpt.alice.token(expires_in_seconds=60) + "\n")
    async with configured(tmp_path, base_url, clock, file=file) as auth:
        assert await auth.adopt_configured() == chatgpt.alice.user_id
        assert not auth.has_new_configured()
        file.write_text(f"  {chatgpt.alice.token()}\n\n")
        assert auth.has_new_configured()
        assert await auth.adopt_configured() == chatgpt.alice.user_id
        assert not auth.has_new_configured()
        clock.move(seconds=61)
        assert auth.accounts() == [chatgpt.alice.user_id]


@pytest.mark.parametrize("content", [None, b"", b" \n\t\n"], ids=["missing", "empty", "blank"])
async def test_a_credentials_file_with_nothing_in_it_is_fine(
    tmp_path: Path, base_url: str, clock: ManualClock, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is missing, empty or blank means no token, and is nothing to complain about."""
    file = tmp_path / "access_token"
    if content is not None:
        file.write_bytes(content)
    async with configured(tmp_path, base_url, clock, file=file) as auth:
        assert await auth.adopt_configured() is None
        assert not auth.has_new_configured()
    assert "access token" not in caplog.text


@pytest.mark.parametrize("content", [None, b"\xff\xfe secret"], ids=["folder", "not ASCII"])
async def test_a_credentials_file_that_cannot_be_read_is_told(
    tmp_path: Path, base_url: str, clock: ManualClock, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there and cannot be read is a warning without its content, not a crash."""
    file = tmp_path / "access_token"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    async with configured(tmp_path, base_url, clock, file=file) as auth:
        assert await auth.adopt_configured() is None
    assert "a credentials file cannot be read name=access_token" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("token", ["two words", "a\nb", "cgrt_a-local-key", "", "x" * 9000])
async def test_what_is_no_token_is_not_adopted(house: House, chatgpt: SimulatedChatGPT, token: str) -> None:
    """What the owner gives must look like an access token before upstream is asked."""
    with pytest.raises(Unauthorized, match="no access token"):
        await house.auth.adopt(Secret(token))
    assert chatgpt.received() == 0


async def test_a_configured_token_that_is_refused_stops_nothing(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says that its own token was refused, without showing it, and goes on."""
    config = make_config(tmp_path, base_url, upstream__access_token="made-up-token")
    async with running(config, clock=clock) as app:
        await prove_configured(app)
    assert "the configured access token could not be proved" in caplog.text
    assert "made-up-token" not in caplog.text
    assert chatgpt.received() == 1


async def test_a_key_cannot_be_made_twice_under_one_name(house: House, control: Control) -> None:
    """A name stands for one key."""
    await key_of_alice(house, control)
    with pytest.raises(Conflict, match="there is a key laptop already"):
        await control.create_key("laptop", house.chatgpt.alice.user_id)


# ------------------------------------------------------------------------------------------------ the digest key


def test_a_damaged_digest_key_stops_the_start(tmp_path: Path) -> None:
    """A key file of the wrong length is not silently replaced: every API key hangs on it."""
    file = tmp_path / "key"
    file.write_bytes(b"short")
    with pytest.raises(StartError, match="damaged"):
        read_digest_key(file)
    assert file.read_bytes() == b"short"


def test_a_digest_key_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """What lies in its place and is no file is told as it is."""
    (tmp_path / "key").mkdir()
    with pytest.raises(StartError, match="Is a directory"):
        read_digest_key(tmp_path / "key")


def test_a_digest_key_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """No key, no server."""
    with pytest.raises(StartError, match="No such file"):
        read_digest_key(tmp_path / "missing" / "key")


def test_the_digest_key_stays_the_same(tmp_path: Path) -> None:
    """It is made once, at random, and readable by its owner alone."""
    key = read_digest_key(tmp_path / "key")
    assert read_digest_key(tmp_path / "key") == key
    assert len(key) == 32
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("partial", [b"", b"half a key", b"x" * 32], ids=["empty", "half", "whole"])
def test_a_digest_key_that_was_half_written_is_made_anew(tmp_path: Path, partial: bytes) -> None:
    """A crash while it was written leaves a file of another name, which is no key and in nobody's way."""
    (tmp_path / "key.partial").write_bytes(partial)
    key = read_digest_key(tmp_path / "key")
    assert len(key) == 32
    assert key != partial
    assert [each.name for each in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


async def test_a_key_file_that_is_gone_is_told(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where API keys exist and the file that proves them does not, the log says so and names it; else it is silent."""
    for _ in range(2):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            if not await house.mirror.accounts.keys():
                await key_of_alice(house, control_over(house.app, clock))
    assert "the key file is gone" not in caplog.text
    (tmp_path / "mirror.sqlite.key").unlink()
    async with open_house(tmp_path, chatgpt, base_url, clock):
        pass
    assert f"the key file is gone, and with it every API key's worth: make them anew file={tmp_path}" in caplog.text
