# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation with something of everything, and its files, for the tests of what is written from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_text import AttachedFile
from chatgpt_rest.model import Conversation
from tests.shapes import conversation_json, message

CITE: Final = "\ue200cite\ue202turn0search0\ue201"
PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(24)

ANSWER: Final = rf"""Heat spreads{CITE}:

\[
u_t
= \alpha u_{{xx}}
\]

| Scheme | Stable |
|:-------|-------:|
| Euler  | $r \le \frac12$ |

```python
def step(u):  # ``` in a comment
    return u
```

<script>alert(1)</script> [x](javascript:alert(1)) ![p](https://a.example/pixel.png)

:::writing{{subject="Results"}}
Dear Ada
:::
"""


def rich_conversation() -> Conversation:
    """Eleven messages, a fork, every kind of passage."""
    value = conversation_json(
        message("", role="system"),
        message("Why does *heat* spread?", role="user"),
        _of("thoughts", thoughts=[{"summary": "Recall", "content": "$u_t$"}]),
        _of("reasoning_recap", content="Thought for 7s"),
        message(ANSWER, metadata={"model_slug": "gpt-5", "content_references": [_REFERENCE]}),
        message(
            author={"role": "tool", "name": "python"},
            content={"content_type": "execution_output", "text": "1 < 2"},
            metadata={
                "aggregate_result": {"messages": [{"message_type": "image", "image_url": "sediment://file_plot"}]}
            },
        ),
        message(
            role="user",
            content={"content_type": "multimodal_text", "parts": [_pointer("image", "file_pic"), "And this?"]},
            metadata={
                "attachments": [{"id": "file-pdf", "name": "Paper (1).pdf"}, {"id": "file-gone", "name": "gone.xlsx"}]
            },
        ),
        _of("tether_quote", url="https://a.example/q", title="A page", text="Read\nthere."),
        _of(
            "multimodal_text",
            parts=[_pointer("audio", "file_aud"), {"content_type": "audio_transcription", "text": "Hm."}],
        ),
        message(
            recipient="canmore.create_textdoc",
            content={
                "content_type": "code",
                "text": json.dumps({"name": "tool", "type": "code/python", "content": "x = 1"}),
            },
        ),
        _of("computer_output", state={"</script>": "```"}),
        title='Heat: "spread" 🔥\nand more',
        default_model_slug="gpt-5",
        conversation_template_id="g-p-1",
    )
    value["mapping"]["other"] = {"id": "other", "parent": "n3", "message": {**message("Because."), "id": "other"}}
    return chatgpt_json.conversation(value)


def rich_files(folder: Path) -> dict[str, AttachedFile]:
    """All its files but one, with bytes in `folder`."""
    told = [
        ("file_plot", "plot.png", "image/png"),
        ("file_pic", "pic.png", "image/png"),
        ("file-pdf", "Paper (1).pdf", "application/pdf"),
        ("file_aud", "hm.wav", "audio/wav"),
    ]
    files = {}
    for identifier, name, media_type in told:
        path = folder / identifier
        path.write_bytes(PNG + identifier.encode())
        link = f"assets/{identifier}"
        files[identifier] = AttachedFile(identifier, name, media_type, link, path, path.stat().st_size)
    return files


_REFERENCE: Final = {"matched_text": CITE, "items": [{"title": "On [heat]", "url": "https://a.example/heat"}]}


def _of(content_type: str, **members: object) -> dict[str, Any]:
    return message(content={"content_type": content_type, **members})


def _pointer(kind: str, identifier: str) -> dict[str, Any]:
    return {"content_type": f"{kind}_asset_pointer", "asset_pointer": f"sediment://{identifier}"}
