# SPDX-License-Identifier: GPL-2.0-or-later
"""Forged access tokens: none reads anything, upstream there or away, and none spends what belongs to its victim."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.api.routes import API
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client, House, ManualClock, open_house
from tests.rows import rows
from tests.tokens import AUTH, claims_of, edited, encoded

SECRET: Final = "the words that nobody else may read"
AWAY: Final = "http://127.0.0.1:9/backend-api/"


def signed(header: dict[str, str], claims: dict[str, object]) -> str:
    """A JWT that is signed well, with a key of the forger's own."""
    text = f"{encoded(header)}.{encoded(claims)}"
    digest = hmac.digest(b"the forger's key", text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def claiming(claims: object) -> str:
    """A JWT with any claims and a signature of nobody's."""
    return f"{encoded({'alg': 'HS256'})}.{encoded(claims)}.signature"


def other_last_character(token: str) -> str:
    """The same signature byte for byte, written differently: Base64 leaves bits unused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


Forge = Callable[[str, str, str], str]
"""From a token of the victim, a token of the forger's own account and the victim's user id."""

FORGERIES: dict[str, Forge] = {
    "alg none": lambda victims, own, victim: edited(victims, header={"alg": "none"}, signature=""),
    "alg NoNe with a signature": lambda victims, own, victim: edited(victims, header={"alg": "NoNe"}),
    "alg null": lambda victims, own, victim: encoded({"alg": None}) + victims[victims.index(".") :],
    "alg missing": lambda victims, own, victim: encoded({"typ": "JWT"}) + victims[victims.index(".") :],
    "no signature": lambda victims, own, victim: victims.rpartition(".")[0] + ".",
    "no signature, no dot": lambda victims, own, victim: victims.rpartition(".")[0],
    "a signature of another token": lambda victims, own, victim: edited(victims, signature=own.rpartition(".")[2]),
    "another account's id": lambda victims, own, victim: edited(own, {AUTH: {"user_id": victim}}),
    "a later expiry": lambda victims, own, victim: edited(victims, {"exp": claims_of(victims)["exp"] + 1}),
    "signed by the forger": lambda victims, own, victim: signed({"alg": "HS256"}, claims_of(victims)),
    "the signature written differently": lambda victims, own, victim: other_last_character(victims),
    "a blank in the middle": lambda victims, own, victim: victims[:40] + "=" + victims[40:],
    "one character more": lambda victims, own, victim: victims + "A",
    "one character less": lambda victims, own, victim: victims[:-1],
    "another case": lambda victims, own, victim: victims.swapcase(),
    "garbage parts": lambda victims, own, victim: "!!!.???.$$$",
    "dots alone": lambda victims, own, victim: "..",
    "four parts": lambda victims, own, victim: victims + "." + victims.rpartition(".")[2],
    "five parts": lambda victims, own, victim: "eyJhbGciOiJkaXIifQ..iv.text.tag",
    "a header that is no object": lambda victims, own, victim: encoded([]) + victims[victims.index(".") :],
    "claims that are no object": lambda victims, own, victim: claiming("x"),
    "claims that are not UTF-8": lambda victims, own, victim: claiming(b"\xff" * 9),
    "a bomb of brackets": lambda victims, own, victim: claiming(b"[" * 5900),
    "a number without end": lambda victims, own, victim: claiming(b'{"exp":' + b"9" * 5800 + b"}"),
    "the user id itself": lambda victims, own, victim: victim,
    "the digest's name": lambda victims, own, victim: "token-00000000000000000000000000000000",
}


@pytest.fixture(params=list(FORGERIES.values()), ids=list(FORGERIES))
def forged(request: pytest.FixtureRequest, chatgpt: SimulatedChatGPT) -> str:
    """A token that upstream never issued, made to look like Alice's."""
    forge: Forge = request.param
    return forge(chatgpt.alice.token(), chatgpt.bob.token(), chatgpt.alice.user_id)


@pytest.fixture
async def victims_house(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> AsyncIterator[House]:
    """A server that holds a conversation of Alice's, content included."""
    async with open_house(tmp_path, chatgpt, base_url, clock, auth__checks_per_hour="50") as house:
        await read_alices(house, chatgpt)
        yield house


async def test_a_forged_token_reads_nothing_online(
    victims_house: House, chatgpt: SimulatedChatGPT, forged: str
) -> None:
    """With upstream there, a forgery gets 401 on every route, and at most its one check reaches upstream."""
    await every_route_refuses(victims_house.client.as_(forged), {401})
    assert [each.method for each in chatgpt.requests if each.account is None] in ([], ["GET"])


async def test_a_forged_token_reads_nothing_offline(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, forged: str
) -> None:
    """With upstream away, a forgery gets 401 or 503 on every route, although the mirror has the data."""
    token = chatgpt.alice.token()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await read_alices(house, chatgpt, token)
    async with open_house(tmp_path, chatgpt, AWAY, clock, auth__checks_per_hour="50") as offline:
        assert SECRET in (await offline.client.as_(token).get("/conversations/alices/messages")).body.decode()
        await every_route_refuses(offline.client.as_(forged), {401, 503})


async def test_a_forged_token_spends_nothing_of_its_victims(
    victims_house: House, chatgpt: SimulatedChatGPT, forged: str
) -> None:
    """A check that upstream refuses is nobody's request."""
    before = await victims_house.mirror.requests.budget(chatgpt.alice.user_id)
    await victims_house.client.as_(forged).get("/conversations")
    after = await victims_house.mirror.requests.budget(chatgpt.alice.user_id)
    assert after.used == before.used
    owners = rows(victims_house, "select distinct account from upstream_request")
    assert set(owners) <= {(chatgpt.alice.user_id,), ("",)}


@pytest.mark.parametrize("error", ["html_403", "forbidden", "unusual_activity"])
async def test_a_token_turned_away_at_the_door_spends_nothing_of_the_account_it_claims(
    victims_house: House, chatgpt: SimulatedChatGPT, error: str
) -> None:
    """Where upstream never looked at the token, its claim to an account was not proved, and is not charged."""
    before = await victims_house.mirror.requests.budget(chatgpt.alice.user_id)
    chatgpt.fault(error=error)
    stolen = edited(chatgpt.bob.token(), {AUTH: {"user_id": chatgpt.alice.user_id}})
    assert (await victims_house.client.as_(stolen).get("/conversations")).status == 503
    assert (await victims_house.mirror.requests.budget(chatgpt.alice.user_id)).used == before.used


async def test_an_unsigned_token_is_not_even_sent(victims_house: House, chatgpt: SimulatedChatGPT) -> None:
    """What says of itself that nobody signed it costs no request."""
    asked = chatgpt.received()
    unsigned = edited(chatgpt.alice.token(), header={"alg": "none"}, signature="")
    assert (await victims_house.client.as_(unsigned).get("/conversations")).status == 401
    assert chatgpt.received() == asked


async def test_many_forgeries_leave_the_victim_its_budget(
    house: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """A flood of different forgeries spends the budget of checks and nothing else."""
    await house.client.get("/conversations")
    own = chatgpt.bob.token()
    statuses = [
        (
            await house.client.as_(edited(own, {AUTH: {"user_id": chatgpt.alice.user_id}, "jti": n})).get("/budget")
        ).status
        for n in range(15)
    ]
    assert statuses == [401] * 9 + [503] * 6
    assert (await house.client.get("/budget")).json["remaining"] == 49
    assert chatgpt.received() == 10


async def read_alices(house: House, chatgpt: SimulatedChatGPT, token: str | None = None) -> None:
    """Bring a conversation with secret words into the mirror."""
    chatgpt.alice.add_conversation(SECRET, [(SECRET, SECRET)], conversation_id="alices")
    client = house.client.as_(token or chatgpt.alice.token())
    assert SECRET in (await client.get("/conversations/alices/messages")).body.decode()


async def every_route_refuses(client: Client, statuses: set[int]) -> None:
    """No route that needs an account answers this client anything."""
    for route in API:
        if route.is_public:
            continue
        body = {"prompt": "?", "title": "stolen"} if route.method in {"POST", "PATCH"} else None
        answer = await client.request(route.method, re.sub(r"\{[^}]+\}", "alices", route.path), data=body)
        assert answer.status in statuses, route
        assert SECRET not in answer.body.decode()
