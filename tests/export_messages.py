# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of every kind that exports are known to hold, written after the description of the format alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.export_assets import Shelf

Json = dict[str, Any]

SPRING_2024: Final = 1_710_000_000
_WORDS: Final = (
    "the", "mirror", "keeps", "every", "word", "of", "it", "and", "upstream", "was", "never", "asked", "again",
    "because", "a", "conversation", "is", "yours", "наверное", "zwölf", "東京", "عربى", "naïve", "tree", "branch",
    "answer", "question", "budget", "token", "winter", "🙂", "e\u0301", "\u200bnight", "\\n", '"quoted"', "</p>",
)  # fmt: skip
_SLIM_MEMBERS: Final = ("id", "author", "content", "create_time", "metadata")
_HIDDEN_TYPES: Final = {
    "user_editable_context", "model_editable_context", "thoughts", "reasoning_recap", "sonic_webpage", "system_error",
    "tether_browsing_display",
}  # fmt: skip


@dataclass
class Pen:
    """Writes messages, each at a later time than the one before. The same again from the same `random`."""

    random: Random
    shelf: Shelf
    time: float = SPRING_2024

    def uuid(self) -> str:
        """Looks like one that ChatGPT gave."""
        digits = f"{self.random.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def words(self, most: int = 12) -> str:
        """A few words of several alphabets, with all that has to be escaped."""
        return " ".join(self.random.choices(_WORDS, k=self.random.randint(1, most)))

    def now(self) -> float | int:
        """A little later, as exports write it: a float of microseconds, seldom a whole number."""
        self.time += self.random.randint(1, 90_000_000) / 1_000_000
        return int(self.time) if self.random.random() < 0.1 else round(self.time, 6)

    def message(self, role: str, content: Json, **members: Any) -> Json:
        """A message of the full shape."""
        return {
            "id": self.uuid(),
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": self.now(),
            "update_time": None,
            "content": content,
            "status": "finished_successfully",
            "end_turn": True if role == "assistant" else None,
            "weight": 1.0,
            "metadata": {},
            "recipient": "all",
            "channel": None,
            **members,
        }

    def text(self, role: str, words: str | None = None, **members: Any) -> Json:
        """A message of plain words."""
        content = {"content_type": "text", "parts": [self.words() if words is None else words]}
        return self.message(role, content, **members)

    def tool(self, name: str, content: Json, **members: Any) -> Json:
        """What a tool answered."""
        return self.message("tool", content, author={"role": "tool", "name": name, "metadata": {}}, **members)

    def image(self, metadata: Json | None = None, *, generated: bool = False, is_here: bool = True) -> Json:
        """A part that points to a picture."""
        asset = self.shelf.take("webp" if generated else "png", generated=generated, is_here=is_here)
        return {
            "content_type": "image_asset_pointer",
            "asset_pointer": asset.pointer,
            "size_bytes": asset.size_bytes,
            "width": 1024,
            "height": 768,
            "fovea": None,
            "metadata": metadata,
        }

    def audio(self) -> Json:
        """A part that points to a recording."""
        asset = self.shelf.take("wav")
        return {
            "content_type": "audio_asset_pointer",
            "asset_pointer": asset.pointer,
            "format": "wav",
            "size_bytes": asset.size_bytes,
            "metadata": {"start": 0.0, "end": 2.520000000000001},
        }


def is_hidden(message: Json) -> bool:
    """Whether ChatGPT's own page leaves it out, by the rules as the description of the format has them."""
    content, metadata = message.get("content") or {}, message.get("metadata") or {}
    kind, role = content.get("content_type"), (message.get("author") or {}).get("role")
    if metadata.get("is_visually_hidden_from_conversation") or message.get("weight") == 0 or kind in _HIDDEN_TYPES:
        return True
    if role == "tool":
        parts = content.get("parts") or []
        shows_image = any(isinstance(part, dict) and part["content_type"] == "image_asset_pointer" for part in parts)
        return kind not in {"execution_output", "tether_quote"} and not shows_image
    if role == "system":
        return not metadata.get("is_user_system_message")
    return role == "assistant" and message.get("recipient") not in {None, "all"}


def slim(message: Json) -> Json:
    """The same message as exports since 2026 have it."""
    kept = {member: message[member] for member in _SLIM_MEMBERS if message.get(member) not in (None, {})}
    author = {name: value for name, value in message["author"].items() if name != "metadata"}
    return {**kept, "author": author, "create_time": message.get("create_time")}


# ---------------------------------------------------------------------------------------------------- content types


def _plain(pen: Pen) -> Json:
    metadata = {
        "model_slug": "gpt-4o",
        "finish_details": {"type": "stop", "stop_tokens": [200_002]},
        "is_complete": True,
    }
    return pen.text("assistant", f"{pen.words()}\n\n| a | b |\n|---|---|\n| $x^2$ | `y` |\n", metadata=metadata)


def _no_words(pen: Pen) -> Json:
    return pen.message("assistant", {"content_type": "text", "parts": []})


def _object_in_parts(pen: Pen) -> Json:
    return pen.message("assistant", {"content_type": "text", "parts": ["see", {"unknown": [1, None]}, "this"]})


def _code(pen: Pen) -> Json:
    content = {"content_type": "code", "language": "python", "response_format_name": None, "text": "print('```')\n"}
    return pen.message("assistant", content, recipient="python")


def _code_without_text(pen: Pen) -> Json:
    content = {"content_type": "code", "language": "unknown"}
    return pen.message("assistant", content, metadata={"finished_text": 'search("winter")'})


def _tether_quote(pen: Pen) -> Json:
    content = {
        "content_type": "tether_quote",
        "url": "https://example.org/a?b=c",
        "domain": "example.org",
        "text": pen.words(40),
        "title": pen.words(4),
        "tether_id": None,
    }
    return pen.tool("browser", content)


def _picture(pen: Pen) -> Json:
    return pen.message("user", {"content_type": "multimodal_text", "parts": [pen.image(), pen.words()]})


def _generated_picture(pen: Pen) -> Json:
    drawn = {"dalle": {"gen_id": "Gx1", "prompt": pen.words(), "seed": 2**63 + 11, "edit_op": None}, "sanitized": False}
    return pen.tool("dalle.text2im", {"content_type": "multimodal_text", "parts": [pen.image(drawn, generated=True)]})


def _lost_picture(pen: Pen) -> Json:
    return pen.message(
        "user", {"content_type": "multimodal_text", "parts": [pen.image({}, is_here=False), "it is gone"]}
    )


def _spoken(pen: Pen) -> Json:
    heard = {"content_type": "audio_transcription", "text": pen.words(), "direction": "in", "decoding_id": None}
    return pen.message("user", {"content_type": "multimodal_text", "parts": [heard, pen.audio()]})


def _filmed(pen: Pen) -> Json:
    part = {
        "content_type": "real_time_user_audio_video_asset_pointer",
        "frames_asset_pointers": [pen.image()],
        "video_container_asset_pointer": None,
        "audio_asset_pointer": pen.audio(),
        "audio_start_timestamp": 0.1 + 0.2,
    }
    said = {"content_type": "audio_transcription", "text": pen.words(), "direction": None}
    return pen.message("user", {"content_type": "multimodal_text", "parts": [said, part]})


def _silent_film(pen: Pen) -> Json:
    part: Json = {
        "content_type": "real_time_user_audio_video_asset_pointer",
        "frames_asset_pointers": [],
        "audio_asset_pointer": None,
    }
    return pen.message("user", {"content_type": "multimodal_text", "parts": [part]})


def _instructions(pen: Pen) -> Json:
    content = {
        "content_type": "user_editable_context",
        "user_profile": f"I am {pen.words()}",
        "user_instructions": "Answer in rhyme.",
    }
    hidden = {"is_visually_hidden_from_conversation": True, "is_user_system_message": True}
    return pen.message("user", content, create_time=None, metadata=hidden)


def _browsing(pen: Pen) -> Json:
    content: Json = {
        "content_type": "tether_browsing_display",
        "result": f"L0: {pen.words(30)}",
        "summary": None,
        "assets": [],
        "tether_id": None,
    }
    return pen.tool("browser", content)


def _output(pen: Pen) -> Json:
    drawn = pen.shelf.take("png")
    shown = {"message_type": "image", "image_url": drawn.pointer, "width": 640, "height": 480, "time": pen.now()}
    result = {"status": "success", "run_id": pen.uuid(), "messages": [shown], "jupyter_messages": []}
    content = {"content_type": "execution_output", "text": "0.1 + 0.2 = 0.30000000000000004\n"}
    return pen.tool("python", content, metadata={"aggregate_result": result})


def _web_page(pen: Pen) -> Json:
    content = {
        "content_type": "sonic_webpage",
        "url": "https://example.org/",
        "domain": "example.org",
        "title": pen.words(3),
        "text": pen.words(30),
        "snippet": pen.words(),
        "pub_timestamp": 1_700_000_000.5,
    }
    return pen.tool("web.run", content)


def _thoughts(pen: Pen) -> Json:
    thought = {"summary": pen.words(3), "content": pen.words(30), "chunks": [pen.words(), ""], "finished": True}
    content = {"content_type": "thoughts", "thoughts": [thought, thought], "source_analysis_msg_id": pen.uuid()}
    return pen.message("assistant", content)


def _recap(pen: Pen) -> Json:
    content = {"content_type": "reasoning_recap", "content": "Thought for 7s"}
    return pen.message("assistant", content, metadata={"finished_duration_sec": 7, "reasoning_status": "ended"})


def _system_error(pen: Pen) -> Json:
    return pen.tool("python", {"content_type": "system_error", "name": "ValueError", "text": pen.words()})


def _paired_app(pen: Pen) -> Json:
    content = {
        "content_type": "app_pairing_content",
        "workspaces": [{"app_name": "Terminal", "title": "zsh", "id": "1"}],
        "context_parts": [{"text": pen.words(20)}],
    }
    return pen.message("user", content)


def _paired_app_as_part(pen: Pen) -> Json:
    part: Json = {"content_type": "app_pairing_content", "workspaces": [], "context_parts": [{"text": pen.words()}]}
    return pen.message("user", {"content_type": "multimodal_text", "parts": [part, pen.words()]})


def _memory(pen: Pen) -> Json:
    content = {
        "content_type": "model_editable_context",
        "model_set_context": f"1. {pen.words()}",
        "repository": None,
        "repo_summary": None,
        "structured_context": None,
    }
    return pen.message("assistant", content, create_time=None)


def _computer_output(pen: Pen) -> Json:
    content = {"content_type": "computer_output", "computer_id": "9", "screenshot": None, "state": {"open": [True]}}
    return pen.tool("computer.do", content)


def _browsing_code(pen: Pen) -> Json:
    return pen.message("assistant", {"content_type": "tether_browsing_code", "code": "click(3)"}, recipient="browser")


def _of_the_future(pen: Pen) -> Json:
    content = {"content_type": "holographic_scene", "scene": {"": [[[]], {"a": {}}]}, "parts": None, "volume": 1e-320}
    return pen.message("assistant", content)


# --------------------------------------------------------------------------------------- metadata, markers and roles


def _attached(pen: Pen) -> Json:
    attachments = [pen.shelf.take(kind).attachment for kind in ("pdf", "docx", "txt", "mp3", "mp4", "gif", "jpg")]
    return pen.text("user", metadata={"attachments": attachments, "request_id": pen.uuid()})


def _attached_picture(pen: Pen) -> Json:
    part = pen.image()
    named = next(asset for asset in pen.shelf.assets if asset.pointer == part["asset_pointer"])
    attachment = {**named.attachment, "width": 1024, "height": 768}
    content = {"content_type": "multimodal_text", "parts": [part, pen.words()]}
    return pen.message("user", content, metadata={"attachments": [attachment]})


def _references(pen: Pen) -> Json:
    marker = "\ue200cite\ue202turn0search0\ue202turn0search1\ue201"
    page = {"title": pen.words(3), "url": "https://example.org/1", "attribution": "example.org", "snippet": pen.words()}
    references = [
        {
            "type": "grouped_webpages",
            "matched_text": marker,
            "start_idx": 3,
            "end_idx": 30,
            "alt": None,
            "items": [page],
        },
        {"type": "sources_footnote", "sources": [{"title": "x", "url": "javascript:alert(1)"}], "start_idx": 31},
    ]
    groups = [{"type": "search_result_group", "domain": "example.org", "entries": [page]}]
    metadata = {"content_references": references, "search_result_groups": groups}
    return pen.text("assistant", f"So {marker}", metadata=metadata)


def _markers(pen: Pen) -> Json:
    return pen.text(
        "assistant",
        'In \ue200entity\ue202["city","Paris","capital"]\ue201 \ue200url\ue202here\ue202https://example.org\ue201 '
        '\ue200navlist\ue202News\ue202turn0news1\ue201 \ue200image_group\ue202{"query":["a"]}\ue201 '
        "\ue200i\ue202x\ue201 "
        '\ue200products\ue202{"selections":[]}\ue201 \ue200genui\ue202{"a":1}\ue201 '
        "\ue200filecite\ue202turn0file0\ue201 "
        "stray \ue203 and \ue204, and one that never ends: \ue200cite\ue202turn0",
    )


def _old_citations(pen: Pen) -> Json:
    source = {"type": "webpage", "title": pen.words(3), "url": "https://example.org/old", "text": "", "pub_date": None}
    words = "As said【11†source】 and :contentReference[oaicite:2]{index=2} in [f](sandbox:/mnt/data/f.csv)"
    cited = {"start_ix": 7, "end_ix": 18, "citation_format_type": "tether_og", "metadata": source}
    return pen.text("assistant", words, metadata={"citations": [cited]})


def _canvas(pen: Pen) -> Json:
    document = '{"name": "poem", "type": "document/markdown", "content": "# Winter\\n"}'
    return pen.text("assistant", document, recipient="canmore.create_textdoc")


def _canvas_updated(pen: Pen) -> Json:
    update = '{"updates": [{"pattern": ".*", "multiple": false, "replacement": "# Spring\\n"}]}'
    return pen.text("assistant", update, recipient="canmore.update_textdoc")


def _writing_block(pen: Pen) -> Json:
    return pen.text("assistant", f':::writing{{variant="email" id="1"}}\n{pen.words(30)}\n:::')


def _visually_hidden(pen: Pen) -> Json:
    return pen.text("assistant", metadata={"is_visually_hidden_from_conversation": True})


def _weightless(pen: Pen) -> Json:
    return pen.text("user", weight=0)


def _system(pen: Pen) -> Json:
    return pen.text("system", "", create_time=None, weight=0.0)


def _users_system(pen: Pen) -> Json:
    return pen.text("system", metadata={"is_user_system_message": True, "user_context_message_data": None})


def _branched(pen: Pen) -> Json:
    metadata = {"branching_from_conversation_id": pen.uuid(), "branching_from_conversation_title": pen.words(3)}
    return pen.text("system", "", metadata=metadata)


def _continued(pen: Pen) -> Json:
    return pen.text("assistant", end_turn=None, metadata={"finish_details": {"type": "max_tokens"}})


def _odd_characters(pen: Pen) -> Json:
    return pen.text("user", "half \ud83d of one, NUL \0, \x7f, \u2028, \ufeff, unassigned \u0378 \U000e0fff, \uffff")


def _odd_numbers(pen: Pen) -> Json:
    odd = [2**64, -(2**200), 5e-324, -0.0, 1.7976931348623157e308, 1e22, 0.1 + 0.2, 1_700_000_000.123456]
    return pen.text("assistant", metadata={"odd": odd, "timestamp_": "absolute", "": None})


def _meagre(pen: Pen) -> Json:
    return {"id": pen.uuid(), "author": {"role": "user"}, "content": {"content_type": "text", "parts": [pen.words()]}}


def _earlier_than_its_parent(pen: Pen) -> Json:
    return pen.text("assistant", create_time=SPRING_2024 - 86_400.5)


KINDS: Final[tuple[Callable[[Pen], Json], ...]] = (
    _plain, _no_words, _object_in_parts, _code, _code_without_text, _tether_quote, _picture, _generated_picture,
    _lost_picture, _spoken, _filmed, _silent_film, _instructions, _browsing, _output, _web_page, _thoughts,
    _recap, _system_error, _paired_app, _paired_app_as_part, _memory, _computer_output, _browsing_code,
    _of_the_future, _attached, _attached_picture, _references, _markers, _old_citations, _canvas,
    _canvas_updated, _writing_block, _visually_hidden, _weightless, _system, _users_system, _branched,
    _continued, _odd_characters, _odd_numbers, _meagre, _earlier_than_its_parent,
)  # fmt: skip
"""Each of them writes one message."""
