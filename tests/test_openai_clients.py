# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that people use with OpenAI's API, unchanged and over real HTTP: the openai package, `llm` and curl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.house import House, ManualClock, open_house
from tests.process import PATIENCE_SECONDS

MODEL: Final = "gpt-4o"
MOONS: Final = "Which planet has the most moons?"

HELLO: Final[ChatCompletionMessageParam] = {"role": "user", "content": "Hello?"}
THEN: Final[ChatCompletionMessageParam] = {"role": "user", "content": "And then?"}


def client_of(house: House, **options: Any) -> AsyncOpenAI:
    """The package as people set it up: an address and a key. Retries are its own, two of them."""
    return AsyncOpenAI(base_url=f"{house.client.address}/v1", api_key=house.client.authorization, **options)


@pytest.fixture
async def package(house: House) -> AsyncIterator[AsyncOpenAI]:
    """The openai package, talking to the house."""
    async with client_of(house) as client:
        yield client


def asks(chatgpt: SimulatedChatGPT) -> list[list[str]]:
    """What upstream was asked: the texts of each request."""
    return [
        [message["content"]["parts"][0] for message in json.loads(each.body)["messages"]]
        for each in chatgpt.requests
        if each.method == "POST"
    ]


# -------------------------------------------------------------------------------------------------------- the package


async def test_the_package_reads_an_answer(package: AsyncOpenAI) -> None:
    """The words, how it ended, and no count of tokens: programs that look for one find that nobody told."""
    completion = await package.chat.completions.create(model=MODEL, messages=[HELLO])
    assert completion.choices[0].message.content == answer_to("Hello?")
    assert (completion.choices[0].finish_reason, completion.model) == ("stop", MODEL)
    assert completion.usage is not None
    assert set(completion.usage.model_dump().values()) == {None}


async def test_the_package_streams_an_answer(package: AsyncOpenAI) -> None:
    """Its chunks add up to the same words, and its own way of putting them together agrees."""
    stream = await package.chat.completions.create(model=MODEL, messages=[HELLO], stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer_to("Hello?")
    async with package.chat.completions.stream(model=MODEL, messages=[HELLO]) as streamed:
        whole = await streamed.get_final_completion()
    assert whole.choices[0].message.content == answer_to("Hello?")


async def test_the_package_keeps_to_one_conversation(package: AsyncOpenAI, chatgpt: SimulatedChatGPT) -> None:
    """It sends its whole history each time; upstream is told the new message alone, in one request each."""
    first = (await package.chat.completions.create(model=MODEL, messages=[HELLO])).choices[0].message
    history: list[Any] = [HELLO, first.model_dump(), THEN]
    await package.chat.completions.create(model=MODEL, messages=history)
    assert asks(chatgpt) == [["Hello?"], ["And then?"]]
    assert len(chatgpt.alice.conversations) == 1


async def test_an_edit_in_the_packages_history_is_a_branch(package: AsyncOpenAI, chatgpt: SimulatedChatGPT) -> None:
    """The same conversation, from the message before the one that was edited."""
    first = (await package.chat.completions.create(model=MODEL, messages=[HELLO])).choices[0].message
    for words in ("And then?", "And otherwise?"):
        history: list[Any] = [HELLO, first, {"role": "user", "content": words}]
        await package.chat.completions.create(model=MODEL, messages=history)
    (conversation,) = chatgpt.alice.conversations
    parents = [json.loads(each.body)["parent_message_id"] for each in chatgpt.requests if each.method == "POST"]
    assert parents[1] == parents[2]
    assert [each["content"]["parts"] for each in conversation.branch()][-2] == ["And otherwise?"]


async def test_the_packages_system_message_goes_along(package: AsyncOpenAI, chatgpt: SimulatedChatGPT) -> None:
    """Once: from then on it is part of a known history."""
    history: list[Any] = [{"role": "system", "content": "Be brief."}, HELLO]
    first = (await package.chat.completions.create(model=MODEL, messages=history)).choices[0].message
    history += [first, THEN]
    await package.chat.completions.create(model=MODEL, messages=history)
    assert asks(chatgpt) == [["Be brief.", "Hello?"], ["And then?"]]


async def test_the_package_lists_the_models(package: AsyncOpenAI) -> None:
    """And looks one up."""
    assert [model.id async for model in package.models.list()][:2] == ["gpt-5", "gpt-5-thinking"]
    assert (await package.models.retrieve("gpt-4o")).id == "gpt-4o"


async def test_the_package_raises_what_it_should(house: House, package: AsyncOpenAI) -> None:
    """Each refusal is the exception that its users know, with our words and code."""
    with pytest.raises(openai.NotFoundError, match="offers no model") as missing:
        await package.chat.completions.create(model="gpt-9000", messages=[HELLO])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="must end with the user's message"):
        await package.chat.completions.create(model=MODEL, messages=[{"role": "assistant", "content": "x"}])
    async with client_of(house).with_options(api_key="cgrt_made-up") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()


async def test_the_package_does_not_try_again_what_is_limited(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """429 with the time to wait, at once and once."""
    async with (
        open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="2") as house,
        client_of(house) as package,
    ):
        await package.chat.completions.create(model="auto", messages=[HELLO])
        with pytest.raises(openai.RateLimitError) as refused:
            await package.chat.completions.create(model="auto", messages=[HELLO])
    assert refused.value.response.headers["Retry-After"] == "3600"
    assert len(asks(chatgpt)) == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [({"reset": True}, "ask_uncertain"), ({"stream": "error_event"}, "answer_incomplete")],
    ids=["uncertain", "incomplete"],
)
async def test_the_package_never_asks_twice(
    package: AsyncOpenAI, chatgpt: SimulatedChatGPT, fault: dict[str, Any], code: str
) -> None:
    """It tries again after most errors of a server; after these it must not."""
    await package.models.list()
    chatgpt.fault("conversation", **fault)
    with pytest.raises(openai.InternalServerError) as failed:
        await package.chat.completions.create(model=MODEL, messages=[HELLO])
    assert failed.value.code == code
    assert len(asks(chatgpt)) == 1


async def test_a_timeout_of_the_packages_asks_once(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It gives up waiting, tries again by itself, and is given the answer to the first attempt."""
    fault = chatgpt.fault("conversation", hold_after_events=2, times=1)

    async def release_at_the_retry(request: Any) -> None:
        if request.headers["x-stainless-retry-count"] == "1":
            fault.release()

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [release_at_the_retry]})
    async with client_of(house, timeout=0.5, http_client=http) as package:
        completion = await package.chat.completions.create(model="auto", messages=[HELLO])
    assert completion.choices[0].message.content == answer_to("Hello?")
    assert asks(chatgpt) == [["Hello?"]]


async def test_an_error_in_mid_stream_reaches_the_package(package: AsyncOpenAI, chatgpt: SimulatedChatGPT) -> None:
    """After the words that came it raises."""
    fault = chatgpt.fault("conversation", stream="error_event", after_events=4, hold_after_events=2)
    stream = await package.chat.completions.create(model="auto", messages=[HELLO], stream=True)
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    assert (await anext(stream)).choices[0].delta.content
    fault.release()
    with pytest.raises(openai.APIError, match="broke off"):
        await _to_the_end(stream)


async def _to_the_end(stream: AsyncStream[ChatCompletionChunk]) -> None:
    async for _ in stream:
        pass


async def test_an_answer_that_the_package_stops_goes_on(package: AsyncOpenAI, chatgpt: SimulatedChatGPT) -> None:
    """What was read of it is enough to go on in the same conversation, where all of it is by then."""
    fault = chatgpt.fault("conversation", hold_after_events=3, times=1)
    stream = await package.chat.completions.create(model="auto", messages=[HELLO], stream=True)
    words = ""
    async for chunk in stream:
        words += chunk.choices[0].delta.content or ""
        if words:
            break
    await stream.close()
    fault.release()
    history: list[Any] = [HELLO, {"role": "assistant", "content": words}, THEN]
    await package.chat.completions.create(model="auto", messages=history)
    (conversation,) = chatgpt.alice.conversations
    said = [each["content"]["parts"][0] for each in conversation.branch()][-4:]
    assert said == ["Hello?", answer_to("Hello?"), "And then?", answer_to("And then?")]


async def test_the_package_without_asyncio_works_as_well(house: House) -> None:
    """What most scripts use."""

    def read() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{house.client.address}/v1", api_key=house.client.authorization) as package:
            whole = package.chat.completions.create(model=MODEL, messages=[HELLO])
            stream = package.chat.completions.create(model=MODEL, messages=[THEN], stream=True)
            words = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return whole.choices[0].message.content, words

    assert await asyncio.to_thread(read) == (answer_to("Hello?"), answer_to("And then?"))


# -------------------------------------------------------------------------------------------------------- the others


async def run(*command: str, environ: dict[str, str] | None = None) -> str:
    """What a program writes that ends well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=environ,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_llm_talks_and_goes_on(house: House, chatgpt: SimulatedChatGPT, tmp_path: Path) -> None:
    """Streamed, then on in the same conversation with `-c`, then whole and with a system message."""
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: {MODEL}\n  api_base: {house.client.address}/v1\n  api_key_name: here\n"
    )
    (folder / "keys.json").write_text(json.dumps({"here": house.client.authorization}))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LLM_USER_PATH": str(folder)}
    llm = (sys.executable, "-m", "llm", "-m", "mine")
    assert await run(*llm, MOONS, environ=environ) == answer_to(MOONS) + "\n"
    assert await run(*llm, "-c", "And then?", environ=environ) == answer_to("And then?") + "\n"
    told = await run(*llm, "--no-stream", "-s", "Be brief.", "Hello?", environ=environ)
    assert told == answer_to("Hello?") + "\n"
    assert asks(chatgpt) == [[MOONS], ["And then?"], ["Be brief.", "Hello?"]]
    assert len(chatgpt.alice.conversations) == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_reads_events_as_they_come(house: House) -> None:
    """The example in the documents, streamed."""
    body = json.dumps({"messages": [{"role": "user", "content": MOONS}], "stream": True})
    said = await run(
        *("curl", "-sSN", f"{house.client.address}/v1/chat/completions", "-d", body),
        *("-H", f"Authorization: Bearer {house.client.authorization}", "-H", "Content-Type: application/json"),
    )
    *events, end = [line.removeprefix("data: ") for line in said.splitlines() if line]
    deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]
    assert ("".join(deltas), end) == (answer_to(MOONS), "[DONE]")
