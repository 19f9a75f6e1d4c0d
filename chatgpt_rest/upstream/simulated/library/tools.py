# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations in which the model searched, reasoned, ran code, drew or wrote on a canvas."""

from __future__ import annotations

import json
from typing import Any

from chatgpt_rest.upstream.simulated.library.shelf import Shelf, answer, ask, say
from chatgpt_rest.upstream.simulated.messages import Json, text

DAY = 24
HIDDEN = {"is_visually_hidden_from_conversation": True}


def put_on(shelf: Shelf) -> None:
    """Seven of them."""
    _cited(shelf)
    _cited_as_in_2023(shelf)
    _reasoned(shelf)
    _computed(shelf)
    _looked_at(shelf)
    _drawn(shelf)
    _written_on_canvas(shelf)


def _cited(shelf: Shelf) -> None:
    conversation = shelf.put("Is the ferry to Texel running?", hours_ago=8.2)
    ask(conversation, "Is the ferry from Den Helder to Texel running this weekend, and can I take a bike?")
    call: Json = {
        "content_type": "code",
        "language": "unknown",
        "response_format_name": None,
        "text": '{"search_query": "Texel ferry"}',
    }
    say(conversation, "assistant", call, recipient="web.run", metadata={"model_slug": "gpt-5"}, end_turn=False)
    page: Json = {
        "content_type": "sonic_webpage",
        "url": "https://ferry.example.org/timetable",
        "domain": "ferry.example.org",
        "title": "Timetable",
        "text": "Crossings every hour, 06:30 to 21:30. Bicycles welcome on every crossing.",
        "snippet": "Crossings every hour",
        "pub_timestamp": conversation.create_time - 86_400,
    }
    say(conversation, "tool", page, name="web.run", metadata={"search_result_groups": []})
    first = "\ue200cite\ue202turn0search0\ue201"
    second = "\ue200cite\ue202turn0search0\ue202turn0news2\ue201"
    said = (
        f"Yes. The ferry sails every hour from 06:30 to 21:30, this weekend too {first}. Bicycles travel on every "
        f"crossing, and you do not need to book; in strong wind the late crossings may be cancelled {second}."
    )
    timetable = _source("Timetable", "https://ferry.example.org/timetable", "Crossings every hour, 06:30 to 21:30.")
    warning = _source("Wind warning for the Wadden Sea", "https://weather.example.net/wadden", "Gusts of 8 Beaufort.")
    answer(
        conversation,
        said,
        content_references=[
            _reference(said, first, [timetable]),
            _reference(said, second, [timetable, warning]),
            {
                "matched_text": " ",
                "start_idx": len(said),
                "end_idx": len(said),
                "alt": "",
                "type": "sources_footnote",
                "sources": [timetable, warning],
            },
        ],
        search_result_groups=[{"type": "search_result_group", "domain": "ferry.example.org", "entries": [timetable]}],
    )
    ask(conversation, "Perfect, thank you.")
    answer(
        conversation,
        (
            'Enjoy the island. The lighthouse at \ue200entity\ue202["place","De Cocksdorp","village on '
            'Texel"]\ue201 is worth the ride.'
        ),
    )


def _source(title: str, url: str, snippet: str) -> Json:
    return {"title": title, "url": url, "attribution": url.split("/")[2], "snippet": snippet}


def _reference(said: str, marker: str, items: list[Json]) -> Json:
    start = said.index(marker)
    alt = ", ".join(f"[{item['title']}]({item['url']})" for item in items)
    return {
        "matched_text": marker,
        "start_idx": start,
        "end_idx": start + len(marker),
        "alt": f"({alt})",
        "type": "grouped_webpages",
        "items": items,
    }


def _cited_as_in_2023(shelf: Shelf) -> None:
    conversation = shelf.put("How old is Stonehenge?", hours_ago=DAY * 1040, model="gpt-4-browsing")
    ask(conversation, "How old is Stonehenge, according to current research? Please look it up.")
    call: Json = {"content_type": "code", "language": "unknown", "text": 'search("age of Stonehenge radiocarbon")'}
    say(conversation, "assistant", call, recipient="browser", metadata={"model_slug": "gpt-4-browsing"}, end_turn=False)
    display: Json = {
        "content_type": "tether_browsing_display",
        "result": "# 【0†Stonehenge: the dates†heritage.example.org】\nThe sarsens were raised around 2500 BC.",
        "summary": None,
        "assets": [],
        "tether_id": None,
    }
    say(conversation, "tool", display, name="browser", metadata={"command": "search"})
    quote: Json = {
        "content_type": "tether_quote",
        "url": "https://heritage.example.org/stonehenge",
        "domain": "heritage.example.org",
        "text": "The sarsens were raised around 2500 BC; the earthwork is older, about 3000 BC.",
        "title": "Stonehenge: the dates",
        "tether_id": "1",
    }
    say(conversation, "tool", quote, name="browser", metadata={"command": "quote"})
    marker = "【11†source】"
    said = (
        "The circular earthwork was dug around **3000 BC**, the great sarsens raised around **2500 BC**"
        f"{marker}. So: about 5,000 years."
    )
    start = said.index(marker)
    answer(
        conversation,
        said,
        citations=[
            {
                "start_ix": start,
                "end_ix": start + len(marker),
                "citation_format_type": "tether_og",
                "metadata": {
                    "type": "webpage",
                    "title": "Stonehenge: the dates",
                    "url": "https://heritage.example.org/stonehenge",
                    "text": "The sarsens were raised around 2500 BC.",
                    "pub_date": None,
                },
            }
        ],
    )


def _reasoned(shelf: Shelf) -> None:
    conversation = shelf.put("Wolf, goat, cabbage and a second boat", hours_ago=DAY * 1.1, model="gpt-5-thinking")
    profile: Json = {
        "content_type": "user_editable_context",
        "user_profile": "The user lives near the sea and works in logistics.",
        "user_instructions": "Be brief. Use metric units.",
    }
    say(conversation, "user", profile, metadata={**HIDDEN, "is_user_system_message": True}, weight=0.0)
    ask(conversation, "Wolf, goat, cabbage, but there are two boats with one rower each. How many crossings at least?")
    thoughts: Json = {
        "content_type": "thoughts",
        "thoughts": [
            {
                "summary": "Counting the rowers",
                ("content"): (
                    "With two rowers each bank can have a guard. The conflict only matters on a bank with no one on it."
                ),
                "chunks": ["With two rowers each bank can have a guard."],
                "finished": True,
            },
            {
                "summary": "Looking for a lower bound",
                "content": "Three passengers, at most one a boat a crossing: at least three loaded crossings.",
                "chunks": [],
                "finished": True,
            },
        ],
        "source_analysis_msg_id": conversation.current_node,
    }
    say(conversation, "assistant", thoughts, metadata={"model_slug": "gpt-5-thinking"}, end_turn=False)
    recap: Json = {"content_type": "reasoning_recap", "content": "Thought for 7s"}
    say(conversation, "assistant", recap, metadata={"finished_duration_sec": 7}, end_turn=False)
    answer(
        conversation,
        (
            "**Four.** Both boats cross at once with the wolf and the cabbage (2), the wolf's rower returns "
            "(3), and brings the goat over (4). Nobody is ever alone with a snack: one rower stays with the "
            "wolf and the cabbage, who do not care for each other anyway."
        ),
    )


def _computed(shelf: Shelf) -> None:
    conversation = shelf.put("Plot of last winter's gas bill", hours_ago=DAY * 22)
    ask(conversation, "Nov 118, Dec 164, Jan 203, Feb 171, Mar 96 (in m³). Plot it and tell me the total.")
    code: Json = {
        "content_type": "code",
        "language": "python",
        "response_format_name": None,
        "text": (
            "import matplotlib.pyplot as plt\n\nuse = {'Nov': 118, 'Dec': 164, 'Jan': 203, 'Feb': 171, 'Mar': "
            "96}\nplt.bar(use.keys(), "
            "use.values())\nplt.ylabel('m³')\nplt.savefig('/mnt/data/gas.png')\nprint(sum(use.values()))"
        ),
    }
    say(conversation, "assistant", code, recipient="python", metadata={"model_slug": "gpt-5"}, end_turn=False)
    image: Json = {
        "message_type": "image",
        "image_url": "file-service://file-7HnWc2Lq4ZsXv9KdTb1RmYpE",
        "width": 640,
        "height": 480,
    }
    say(
        conversation,
        "tool",
        {"content_type": "execution_output", "text": "752"},
        name="python",
        metadata={
            "aggregate_result": {
                "status": "success",
                "run_id": "run-1",
                "final_expression_output": None,
                "messages": [image],
            }
        },
    )
    answer(
        conversation, "You used **752 m³**, with January highest at 203. The plot: [gas.png](sandbox:/mnt/data/gas.png)"
    )


def _looked_at(shelf: Shelf) -> None:
    conversation = shelf.put("What is this plant?", hours_ago=DAY * 4.6)
    photo = _image("file_00000000a1b861f5b7c2d09e4f38aa17", width=3024, height=4032)
    attached = {
        "id": "file_00000000a1b861f5b7c2d09e4f38aa17",
        "name": "IMG_2291.jpeg",
        "size": 2_481_133,
        "mime_type": "image/jpeg",
        "width": 3024,
        "height": 4032,
    }
    question: Json = {
        "content_type": "multimodal_text",
        "parts": [photo, "What is this plant, and why are its leaves yellow?"],
    }
    say(conversation, "user", question, metadata={"attachments": [attached]})
    answer(
        conversation,
        (
            "That is a *Calathea orbifolia*. Yellow edges with brown tips usually mean **hard water**: let tap "
            "water stand overnight or use rainwater, and keep it away from the radiator."
        ),
    )


def _image(file_id: str, *, width: int, height: int, dalle: Json | None = None) -> Json:
    return {
        "content_type": "image_asset_pointer",
        "asset_pointer": f"sediment://{file_id}",
        "size_bytes": 2_481_133,
        "width": width,
        "height": height,
        "fovea": None,
        "metadata": {"dalle": dalle, "gizmo": None, "sanitized": True},
    }


def _drawn(shelf: Shelf) -> None:
    conversation = shelf.put("A logo for the rowing club", hours_ago=DAY * 130, model="gpt-4o")
    ask(conversation, "Draw a simple logo for our rowing club: a heron in a boat, two colours.")
    prompt = "Minimalist two-colour logo, a heron standing in a narrow rowing boat"
    call: Json = {
        "content_type": "code",
        "language": "json",
        "response_format_name": None,
        "text": json.dumps({"prompt": prompt}),
    }
    say(conversation, "assistant", call, recipient="t2uay3k.sj1i4kz", metadata={"model_slug": "gpt-4o"}, end_turn=False)
    picture = _image(
        "file_00000000c7d461f69e0b83a5d2f1e644", width=1024, height=1024, dalle={"gen_id": "gVx81", "prompt": prompt}
    )
    drawn: Json = {"content_type": "multimodal_text", "parts": [picture]}
    say(conversation, "tool", drawn, name="t2uay3k.sj1i4kz", metadata={"image_gen_title": "Heron in a boat"})
    answer(conversation, "Here it is, in navy and sand. Shall I try one with the oars crossed behind the heron?")


def _written_on_canvas(shelf: Shelf) -> None:
    conversation = shelf.put("Speech for the club's anniversary", hours_ago=DAY * 9.5)
    say(conversation, "system", text("Canvas is available."), metadata=HIDDEN, weight=0.0)
    ask(conversation, "Write a two-minute speech for our rowing club's 50th anniversary. Warm, a little funny.")
    document = {
        "name": "Anniversary speech",
        "type": "document/markdown",
        ("content"): (
            "# Fifty years afloat\n\nDear friends,\n\nfifty years ago eleven people bought a boat with a hole in it. …"
        ),
    }
    _canvas(conversation, "canmore.create_textdoc", document, "Successfully created text document.")
    answer(
        conversation,
        "I put a first version on the canvas. It begins with the boat with the hole; is that story still told?",
    )
    ask(conversation, "It is! Make the ending shorter.")
    update = {
        "updates": [{"pattern": "…", "multiple": False, "replacement": "It still leaks. So do we. To the next fifty!"}]
    }
    _canvas(conversation, "canmore.update_textdoc", update, "Successfully updated text document.")
    answer(conversation, "Done: it ends on the leak now.")


def _canvas(conversation: Any, recipient: str, document: Json, outcome: str) -> None:
    written: Json = {
        "content_type": "code",
        "language": "json",
        "response_format_name": None,
        "text": json.dumps(document),
    }
    metadata: Json = {"model_slug": "gpt-5"}
    say(conversation, "assistant", written, recipient=recipient, metadata=metadata, end_turn=False)
    say(conversation, "tool", text(outcome), name=recipient, metadata={"canvas": {"textdoc_id": "68e1f3a9"}})
