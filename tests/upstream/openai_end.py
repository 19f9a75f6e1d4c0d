# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of an OpenAI API as upstream ask, and what they get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatgpt_rest import errors
from chatgpt_rest.model import Question, Secret
from chatgpt_rest.upstream.openai_answer import CompletionAnswer
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.protocol import Answer, Caller
from tests.house import ManualClock
from tests.upstream.far_end import PROMPT_ID, RawUpstream


def question(prompt: str = "Hello?", **more: Any) -> Question:
    """A question to a model that there is."""
    told: dict[str, Any] = {"conversation_id": "c-1", "parent_id": None, "model": "gpt-large", **more}
    return Question(PROMPT_ID, prompt, **told)


async def asked(openai: OpenAIUpstream, me: Caller, what: Question | None = None) -> tuple[Answer, list[str]]:
    """The answer, and the texts that iterating over it gave."""
    async with openai.ask(me, what or question()) as answer:
        return answer, [text async for text in answer]


async def refused(openai: OpenAIUpstream, me: Caller) -> errors.MirrorError:
    """What asking raises."""
    with pytest.raises(errors.MirrorError) as raised:
        await asked(openai, me)
    return raised.value


def unfilled() -> CompletionAnswer:
    """An answer that no chunk has come of yet, asked for with the key `sk-hunter2`."""
    return CompletionAnswer(question(), ManualClock(), key=Secret("sk-hunter2"))


def message(answer: Answer) -> dict[str, Any]:
    """The one message that an answer consists of."""
    (node,) = answer.nodes()
    assert node.message is not None
    found: dict[str, Any] = json.loads(node.message)
    return found


def adapter(far: RawUpstream) -> OpenAIUpstream:
    """One that asks a server which answers in bytes."""
    return OpenAIUpstream(base_url=far.base_url, clock=ManualClock(), answer_timeout_seconds=20)
