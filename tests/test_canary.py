# SPDX-License-Identifier: GPL-2.0-or-later
"""A canary in every position of a request: it comes out nowhere, neither to the client nor in any log or file."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.process import PATIENCE_SECONDS, Running, command, environment, started

FORM: Final = "Content-Type: application/x-www-form-urlencoded"

POSITIONS: Final = {
    "authorization": "GET /conversations HTTP/1.1\r\nAuthorization: {canary}",
    "bearer": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}",
    "basic": "GET /conversations HTTP/1.1\r\nAuthorization: Basic {canary}",
    "two words": "GET /conversations HTTP/1.1\r\nAuthorization: {canary} {canary}",
    "twice": "GET /conversations HTTP/1.1\r\nAuthorization: {canary}\r\nAuthorization: {canary}",
    "over-long": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}{padding}",
    "nearly over-long": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}{half}",
    "control character": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}\x01{canary}",
    "line feed": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}\n{canary}",
    "not ASCII": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer {canary}\u00e9",
    "folded": "GET /conversations HTTP/1.1\r\nAuthorization: Bearer\r\n {canary}",
    "blank before the colon": "GET /conversations HTTP/1.1\r\nAuthorization : {canary}",
    "proxy-authorization": "GET /conversations HTTP/1.1\r\nProxy-Authorization: {canary}",
    "cookie": "GET /conversations HTTP/1.1\r\nCookie: session={canary}; {canary}=1",
    "query": "GET /conversations?access_token={canary}&{canary}=1 HTTP/1.1",
    "query value": "GET /conversations?limit={canary}&archived={canary}&project={canary} HTTP/1.1\r\n{valid}",
    "fragment": "GET /conversations#{canary} HTTP/1.1",
    "path": "GET /{canary} HTTP/1.1",
    "id": "GET /conversations/{canary} HTTP/1.1\r\n{valid}",
    "id of messages": "GET /conversations/{canary}/messages HTTP/1.1\r\n{valid}",
    "id to delete": "DELETE /conversations/{canary} HTTP/1.1\r\n{valid}",
    "id to rename": "PATCH /conversations/{canary} HTTP/1.1\r\n{valid}\r\n{form}\r\n\r\ntitle=new",
    "id to ask": "POST /conversations/{canary}/ask HTTP/1.1\r\n{asking}",
    "encoded id": "GET /conversations/%2e%2e%2f{canary} HTTP/1.1\r\n{valid}",
    "method": "{canary} /conversations HTTP/1.1",
    "protocol": "GET /conversations {canary}",
    "no request at all": "{canary}",
    "absolute address": "GET http://{canary}/conversations HTTP/1.1",
    "user of an address": "GET http://{canary}@localhost/conversations HTTP/1.1",
    "host": "GET /conversations HTTP/1.1\r\nHost: {canary}",
    "header name": "GET /conversations HTTP/1.1\r\n{canary}: 1",
    "bad header name": "GET /conversations HTTP/1.1\r\n{canary} x: 1",
    "other headers": "GET /conversations HTTP/1.1\r\nX-Token: {canary}\r\nReferer: {canary}\r\nUser-Agent: {canary}"
    "\r\nOrigin: {canary}\r\nX-Forwarded-For: {canary}\r\nIf-None-Match: {canary}\r\nAccept: {canary}\r\n{valid}",
    "idempotency key": "{new}\r\nIdempotency-Key: {canary}\r\n{asking}",
    "bad idempotency key": "{new}\r\nIdempotency-Key: a {canary}\r\n{asking}",
    "charset": "{new}\r\nContent-Type: application/json; charset={canary}\r\n{valid}"
    '\r\nContent-Length: 2\r\n\r\n{{}}',
    "content type": "{new}\r\nContent-Type: {canary}\r\n{valid}\r\nContent-Length: 2\r\n\r\n{{}}",
    "content encoding": "{new}\r\nContent-Encoding: {canary}\r\n{asking}",
    "transfer encoding": "{new}\r\nTransfer-Encoding: {canary}\r\n{valid}\r\n\r\n",
    "content length": "{new}\r\nContent-Length: {canary}\r\n{valid}\r\n\r\n",
    "expect": "{new}\r\nExpect: {canary}\r\n{asking}",
    "upgrade": "GET /conversations HTTP/1.1\r\nUpgrade: {canary}\r\nConnection: Upgrade",
    "boundary": "{new}\r\n{valid}\r\nContent-Length: 9\r\n"
    "Content-Type: multipart/form-data; boundary={canary}\r\n\r\n123456789",
    "name of a form's field": "{new}\r\n{valid}\r\n{body}{canary}=1",
    "name of a JSON member": '{new}\r\n{valid}\r\n{json}{{"{canary}": 1}}',
    "bad JSON": "{new}\r\n{valid}\r\n{json}{canary}",
    "value of a wrong type": '{new}\r\n{valid}\r\n{json}{{"prompt": ["{canary}"]}}',
    "value of a flag": '{new}\r\n{valid}\r\n{json}{{"prompt": "x", "autocontinue": "{canary}"}}',
    "parent id": "POST /conversations/x/ask HTTP/1.1\r\n{valid}\r\n{body}prompt=x&parent_id=..{canary}",
    "model": "{new}\r\n{valid}\r\n{body}prompt=x&model={canary}%00",
    "model of OpenAI's": "GET /v1/models/{canary} HTTP/1.1\r\n{valid}",
    "path of OpenAI's": "GET /v1/{canary} HTTP/1.1\r\n{valid}",
    "key of OpenAI's": "GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {canary} {canary}",
    "model of a completion": '{completing}{{"model": "{canary}", "messages": [{{"role": "user", "content": "x"}}]}}',
    "role of a message": '{completing}{{"messages": [{{"role": "{canary}", "content": "x"}}]}}',
    "type of a part": '{completing}{{"messages": [{{"role": "user", "content": [{{"type": "{canary}"}}]}}]}}',
    "count of retries": "POST /v1/chat/completions HTTP/1.1\r\nX-Stainless-Retry-Count: {canary}\r\n{asking}",
}  # fmt: skip
"""The beginnings of requests; what is missing at the end (Host, the blank line) is added."""

FAULTS: Final[list[dict[str, Any]]] = [
    {"error": "bad_token"},
    {"error": "token_expired"},
    {"error": "html_403"},
    {"error": "server_error"},
    {"error": "hourly_limit"},
    {"reset": True},
    {"reset_after_bytes": 20},
    {"truncate_after_bytes": 20},
    {"status": 200, "body": "<html>", "content_type": "text/html"},
    {"status": 200, "body": "[1, 2"},
    {"status": 200, "body": '{"items": [{"id": "../x"}]}'},
    {"stream": "error_event"},
    {"stream": "internal_server_error_line"},
]


@dataclass
class Cage:
    """A server with everything turned on that talks, and all that came out of it so far."""

    server: Running
    chatgpt: SimulatedChatGPT
    folder: Path
    address: str
    canaries: list[str]
    came: list[bytes] = field(default_factory=list)

    async def say(self, request: str) -> bytes:
        """Send a request as it is written, and keep what comes back until the connection ends."""
        head, _, body = request.partition("\r\n\r\n")
        if "\nhost:" not in head.lower():
            head += "\r\nHost: localhost"
        raw = f"{head}\r\nConnection: close\r\n\r\n{body}".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.address.rpartition(":")[2]))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                writer.write(raw)
                answer = await reader.read()
        except ConnectionError:
            answer = b""
        writer.close()
        self.came.append(answer)
        return answer

    async def leaks(self) -> list[str]:
        """Where any of the canaries is found: answers, log, files, the command line of the process."""
        sources = {"command line": command_line_of(self.server.pid)}
        assert await self.server.end(signal.SIGTERM) == 0
        sources |= {"answers": b"".join(self.came), "log": self.server.text.encode(), **files_in(self.folder)}
        return [
            f"{canary[:12]}… in {name}: …{content[max(0, content.index(canary.encode()) - 120) :][:160]!r}"
            for name, content in sources.items()
            for canary in self.canaries
            if canary.encode() in content
        ]


def command_line_of(pid: int) -> bytes:
    """What everybody on the machine can read of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder: the database and its companions."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def request(position: str, canary: str, token: str) -> str:
    """The request that carries the canary in this position, with a valid token where it needs one."""
    text = POSITIONS[position].format(
        canary=canary,
        new="POST /conversations/new HTTP/1.1",
        completing=f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
        "Content-Length: {length}\r\n\r\n",
        asking=f"Authorization: {token}\r\n{FORM}\r\nContent-Length: 9\r\n\r\nprompt=x1",
        valid=f"Authorization: {token}",
        form=f"{FORM}\r\nContent-Length: 9",
        body=f"{FORM}\r\nContent-Length: {{length}}\r\n\r\n",
        json="Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        padding="x" * 9000,
        half="x" * 7000,
    )
    return text.replace("{length}", str(len(text.partition("\r\n\r\n")[2])))


@pytest.fixture
async def cage(tmp_path: Path) -> AsyncIterator[Cage]:
    """A server at DEBUG with its access log on, in front of a ChatGPT that knows Alice."""
    chatgpt = SimulatedChatGPT(conversations=False)
    chatgpt.alice.many(1)
    settings = {
        "CHATGPT_REST_LOG__LEVEL": "DEBUG",
        "CHATGPT_REST_SERVER__ACCESS_LOG": "true",
        "CHATGPT_REST_SERVER__BODY_TIMEOUT_SECONDS": "0.5",
        "CHATGPT_REST_AUTH__CHECKS_PER_HOUR": "1000",
        "CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR": "1000",
        "PYTHONFAULTHANDLER": "1",
    }
    async with chatgpt.serving() as base_url:
        environ = environment(tmp_path / "state", base_url, settings)
        async with started(environ=environ, python=("-X", "dev")) as server:
            yield Cage(server, chatgpt, tmp_path / "state", await server.address(), [])


async def test_a_token_that_upstream_refuses_comes_out_nowhere(cage: Cage) -> None:
    """What is no token of anyone, sent in every position."""
    token = cage.chatgpt.alice.token()
    canary = f"canary-{secrets.token_hex(16)}"
    cage.canaries += [canary, token, token.rpartition(".")[2]]
    for position in POSITIONS:
        await cage.say(request(position, canary, token))
    assert [answer for answer in cage.came if not answer.startswith(b"HTTP/1.")] == []
    assert await cage.leaks() == []


async def test_a_token_that_upstream_accepts_comes_out_nowhere(cage: Cage) -> None:
    """A token that reads conversations, sent in every position, half of it included."""
    token = cage.chatgpt.alice.token()
    cage.canaries += [token, token.rpartition(".")[2], token.split(".")[1]]
    for position in POSITIONS:
        await cage.say(request(position, token, token))
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in cage.came) > 2
    assert await cage.leaks() == []


@pytest.mark.parametrize("path", ["conversations*", "conversation*"], ids=["first check", "later request"])
async def test_a_token_comes_out_of_no_fault(cage: Cage, path: str) -> None:
    """Whatever goes wrong upstream while a token is in use, it stays out of what is said and written about it."""
    for fault in FAULTS:
        token = cage.chatgpt.alice.token()
        cage.canaries += [token, token.rpartition(".")[2]]
        if path == "conversation*":
            await cage.say(request("bearer", token, token))
        cage.chatgpt.fault(path, **fault)
        await cage.say(request("bearer", token, token))
        await cage.say(request("idempotency key", secrets.token_hex(8), token))
        await cage.say(
            f"GET /conversations/{cage.chatgpt.alice.conversations[0].id} HTTP/1.1\r\nAuthorization: {token}"
        )
        cage.chatgpt.clear_faults()
        cage.chatgpt.alice.generation = None
    assert await cage.leaks() == []


async def test_a_token_that_upstream_repeats_comes_out_nowhere(cage: Cage) -> None:
    """An upstream that puts the request's headers into its error cannot make us show them."""
    token = cage.chatgpt.alice.token()
    cage.canaries += [token, token.rpartition(".")[2]]
    for status in (400, 401, 403, 404, 422, 429, 500):
        body = {"detail": {"message": f"bad request: Authorization: Bearer {token}", "code": "x"}}
        cage.chatgpt.fault(status=status, body=body, times=1)
        await cage.say(request("bearer", token, token))
        await cage.say(request("bearer", token, token))
    assert await cage.leaks() == []


async def test_a_token_comes_out_of_no_error_of_our_own(cage: Cage) -> None:
    """A mirror that is torn from under the server makes errors with tracebacks, none of them with a token."""
    token = cage.chatgpt.alice.token()
    cage.canaries += [token, token.rpartition(".")[2]]
    await cage.say(request("bearer", token, token))
    database = cage.folder / "mirror.sqlite"
    damaged = bytearray(database.read_bytes())
    damaged[4096:] = b"\xa5" * (len(damaged) - 4096)
    database.write_bytes(damaged)
    for position in ("id", "id of messages", "idempotency key", "query value"):
        await cage.say(request(position, "x", cage.chatgpt.alice.token()))
    assert await cage.leaks() == []


async def test_a_local_key_comes_out_nowhere(cage: Cage, tmp_path: Path) -> None:
    """Neither a key that works nor one that was revoked, in any position."""
    environ = environment(cage.folder, "http://127.0.0.1:9/")
    token = cage.chatgpt.alice.token()
    given = await command("token", environ=environ, stdin=token)
    assert given.status == 0
    made = await command("key", "create", "laptop", "--account", cage.chatgpt.alice.user_id, environ=environ)
    key = made.out.strip()
    cage.canaries += [key, key.removeprefix("cgrt_"), token, token.rpartition(".")[2]]
    cage.came += [given.out.encode(), given.err.encode(), made.err.encode()]
    for position in POSITIONS:
        await cage.say(request(position, key, key))
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in cage.came) > 2
    received = repr([(each.path, dict(each.headers), each.body) for each in cage.chatgpt.requests])
    assert key not in received
    await command("key", "revoke", "laptop", environ=environ)
    await cage.say(request("bearer", key, key))
    assert cage.came[-1].startswith(b"HTTP/1.1 401 ")
    assert await cage.leaks() == []


async def test_a_token_from_the_environment_comes_out_nowhere(tmp_path: Path) -> None:
    """What the server was given at its start is in no log, file or command line, valid or not."""
    chatgpt = SimulatedChatGPT(conversations=False)
    async with chatgpt.serving() as base_url:
        for token in (chatgpt.alice.token(), f"canary-{secrets.token_hex(16)}"):
            settings = {"CHATGPT_REST_LOG__LEVEL": "DEBUG", "CHATGPT_REST_UPSTREAM__ACCESS_TOKEN": token}
            environ = environment(tmp_path / token[-8:], base_url, settings)
            async with started(environ=environ, python=("-X", "dev")) as server:
                cage = Cage(server, chatgpt, tmp_path / token[-8:], await server.address(), [token, token[-30:]])
                await server.until("accepted an access token|could not be proved")
                checked = await command("check", environ=environ)
                cage.came += [checked.out.encode(), checked.err.encode()]
                assert await cage.leaks() == []


async def test_what_people_write_is_in_no_log(cage: Cage) -> None:
    """Prompts, titles and answers are nobody's business who reads the log, not even at DEBUG."""
    token = cage.chatgpt.alice.token()
    body = json.dumps({"prompt": "nightingale", "title": "swallow"})
    asked = await cage.say(
        f"POST /conversations/new HTTP/1.1\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    assert asked.startswith(b"HTTP/1.1 201 ")
    assert b"nightingale" in files_in(cage.folder)["mirror.sqlite-wal"]
    assert await cage.server.end(signal.SIGTERM) == 0
    assert [word for word in ("nightingale", "swallow") if word in cage.server.text] == []


def test_every_position_is_another_request() -> None:
    """The table above carries its canary each time."""
    texts = [request(position, "CANARY", json.dumps("token")) for position in POSITIONS]
    assert all("CANARY" in text for text in texts)
    assert len(set(texts)) == len(texts)
