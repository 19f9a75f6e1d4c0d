# SPDX-License-Identifier: GPL-2.0-or-later
"""What upstream says no with, as clients get to read it: its own JSON where that can be told, and no secret in it."""

from __future__ import annotations

from typing import Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client

UUID: Final = "0aa7a6ee-3a4c-4d52-9c6b-6d1f5e7a8b90"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "[NaN]"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, (400, "upstream_rejected")), (500, (502, "upstream_broken")), (429, (500, "upstream_rate_limit"))],
    ids=["400", "500", "429"],
)
async def test_a_body_that_json_cannot_hold(
    client: Client, chatgpt: SimulatedChatGPT, number: str, status: int, expected: tuple[int, str]
) -> None:
    """Python reads numbers that are no JSON. Where upstream sends one the status stays honest, and our text stands."""
    chatgpt.fault("conversation/*", status=status, body=f'{{"detail": {number}}}', content_type="application/json")
    refused = await client.get(f"/conversations/{UUID}")
    assert (refused.status, refused.json["code"]) == expected
    assert isinstance(refused.json["error"], str)


async def test_a_limit_told_in_what_json_cannot_hold_still_holds(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The account waits as upstream wished, though its words cannot be kept."""
    chatgpt.fault("conversation", status=429, body='{"detail": NaN}', headers={"Retry-After": "60"}, times=1)
    for _ in range(2):
        refused = await client.post("/conversations/new", json={"prompt": "Hello?"})
        assert (refused.status, refused.json["code"], refused.headers["Retry-After"]) == (
            500,
            "upstream_rate_limit",
            "60",
        )
    assert chatgpt.received("POST") == 1


@pytest.mark.parametrize(
    ("conversation_id", "told"),
    [
        pytest.param(UUID, UUID, id="a UUID"),
        pytest.param("c0ffee", "c0ffee", id="a short one"),
        pytest.param("sess-7f3aCANARY0123", "[id]", id="what may be a secret"),
        pytest.param(UUID.upper(), "[id]", id="no UUID as upstream writes them"),
        pytest.param(UUID + UUID[:8], "[id]", id="a UUID and more"),
    ],
)
async def test_upstream_repeats_an_id(
    client: Client, chatgpt: SimulatedChatGPT, conversation_id: str, told: str
) -> None:
    """Ids of conversations stay in upstream's words; whatever else a client put in an id's place does not."""
    words = {"detail": {"message": f"Can't load conversation {conversation_id}", "ids": [conversation_id]}}
    chatgpt.fault("conversation/*", status=404, body=words)
    missing = await client.get(f"/conversations/{conversation_id}/messages")
    assert missing.status == 404
    assert missing.json["error"] == {"detail": {"message": f"Can't load conversation {told}", "ids": [told]}}
