# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations whose shape is legal and rare: what breaks programs that were tried on usual ones only."""

from __future__ import annotations

from chatgpt_rest.upstream.simulated.conversations import stable_uuid
from chatgpt_rest.upstream.simulated.library.shelf import Shelf, answer, ask, say
from chatgpt_rest.upstream.simulated.messages import Json

DAY = 24


def put_on(shelf: Shelf) -> None:
    """Five of them."""
    shelf.put(
        None,
        [("test", "It works! What would you like to talk about?")],
        hours_ago=DAY * 600,
        name="without a title",
        model="gpt-4o",
    )
    shelf.put(
        (
            "Summarise the minutes of the residents' meeting of 14 March (heating, bicycle cellar, the "
            "question of the chestnut tree, and who is to sweep the stairs)\nand write a friendly reminder to "
            "everyone who has not paid into the reserve fund yet, please"
        ),
        [
            (
                "(pasted minutes)",
                "**In short:** the heating is replaced in summer, the chestnut stays, and the stairs remain a mystery.",
            )
        ],
        hours_ago=DAY * 250,
    )
    _earlier_child(shelf)
    _root_of_2023(shelf)
    _unknown_content(shelf)


def _earlier_child(shelf: Shelf) -> None:
    """An answer whose time lies before its prompt's, as clocks of several machines make them."""
    conversation = shelf.put("Time zones for a call with Auckland", hours_ago=DAY * 36)
    prompt = ask(conversation, "It's 9:00 in Berlin on a Tuesday in July. What time is it in Auckland?")
    answer(conversation, "19:00 the same day: Auckland is ten hours ahead of Berlin in July.")
    node = conversation.mapping[prompt]["message"]
    node["create_time"] = conversation.update_time + 2.5
    ask(conversation, "So a call at 8:00 Berlin time is civil for both?")
    answer(conversation, "Very: 8:00 for you, 18:00 for them, with dinner waiting.")


def _root_of_2023(shelf: Shelf) -> None:
    """A root with neither message nor parent, and messages without what came later: channel, recipient, status."""
    conversation = shelf.put("Limericks about cheese", hours_ago=DAY * 1090, model="text-davinci-002-render-sha")
    root = stable_uuid(conversation.id, "root")
    conversation.mapping = {root: {"id": root, "children": []}}
    conversation.current_node = root
    ask(conversation, "Write a limerick about cheese.")
    answer(
        conversation,
        (
            "There once was a wheel of old Gouda\nthat grew every season a prouder.\n\"I'm firm and I'm "
            'round,"\nit was heard to expound,\n"and my critics just need to be louder."'
        ),
    )
    for node in conversation.mapping.values():
        message = node.get("message")
        if message:
            for key in ("channel", "status", "weight"):
                del message[key]


def _unknown_content(shelf: Shelf) -> None:
    """A type of content that nobody has seen yet, in the middle of an ordinary conversation."""
    conversation = shelf.put("Shopping list with prices", hours_ago=DAY * 6.3)
    ask(conversation, "What does a basket for a fondue for six cost?")
    basket: Json = {
        "content_type": "interactive_basket",
        "basket": {"currency": "EUR", "lines": [{"item": "Gruyère", "grams": 600, "price": 14.4}]},
    }
    say(conversation, "assistant", basket, metadata={"model_slug": "gpt-5"}, channel="commentary", end_turn=False)
    answer(conversation, "About **48 €**: 600 g Gruyère, 600 g Vacherin, bread, wine, a lemon and a clove of garlic.")
