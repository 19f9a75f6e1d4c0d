# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of contents of the REST API. The first six rows of conversations are the frozen contract of the seed."""

from __future__ import annotations

from typing import Final

from chatgpt_rest.api import asks, assets, conversations, exports, imports, openai, state, streams, syncing
from chatgpt_rest.context import Route

API: Final = (
    Route("GET", "/conversations", conversations.list_conversations),
    Route("POST", "/conversations/new", asks.new, needs_upstream=True),
    Route("POST", "/conversations/{id}/ask", asks.ask, needs_upstream=True),
    Route("DELETE", "/conversations/all", conversations.delete_all, needs_upstream=True),
    Route("DELETE", "/conversations/{id}", conversations.delete, needs_upstream=True),
    Route("GET", "/conversations/{id}/messages", conversations.messages),
    Route("GET", "/conversations/{id}/stream", streams.join),
    Route("GET", "/conversations/{id}", conversations.whole),
    Route("GET", "/conversations/{id}/export", exports.export),
    Route("PATCH", "/conversations/{id}", conversations.edit, needs_upstream=True),
    Route("GET", "/assets/{id}", assets.asset),
    Route("POST", "/import", imports.start),
    Route("GET", "/import/{job}", imports.status),
    Route("DELETE", "/import/{job}", imports.cancel),
    Route("GET", "/sync", syncing.status),
    Route("POST", "/sync", syncing.start),
    Route("POST", "/v1/chat/completions", openai.chat_completions, needs_upstream=True),
    Route("GET", "/v1/models", openai.list_models),
    Route("GET", "/v1/models/{model:.+}", openai.one_model),  # some APIs' ids have a slash
    Route("GET", "/budget", state.budget),
    Route("GET", "/healthz", state.healthz, is_public=True),
    Route("GET", "/readyz", state.readyz, is_public=True),
)
