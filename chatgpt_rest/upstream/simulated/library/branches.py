# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations that fork, that are long, or that lists do not show: archived, deleted, inside a project."""

from __future__ import annotations

import random

from chatgpt_rest.upstream.simulated.conversations import SimConversation
from chatgpt_rest.upstream.simulated.library.shelf import Shelf, answer, ask

DAY = 24
ROUNDS = 150
PRAISE = ("Correct.", "Yes!", "Right.", "Exactly.", "Spot on.", "That's it.", "Well done.")


def put_on(shelf: Shelf) -> None:
    """Seven of them."""
    _regenerated(shelf)
    _edited(shelf)
    _long(shelf)
    shelf.put(
        "Old flat: list of defects",
        [
            (
                "Keep a list for the handover: scratch on the parquet, dripping tap.",
                "Noted:\n\n1. scratch on the parquet\n2. dripping tap",
            )
        ],
        hours_ago=DAY * 380,
        archived=True,
    )
    shelf.put(
        "Draft I would rather forget",
        [("Write a love poem for the man at the bakery.", "*You weigh the rolls, I weigh my words…*")],
        hours_ago=DAY * 14,
    ).delete()
    project = shelf.account.add_project("Garden")
    shelf.put(
        "What to plant after tomatoes",
        [
            (
                "What should follow tomatoes in the same bed next year?",
                (
                    "Something from another family that gives back: **broad beans** or **peas** first, then "
                    "leafy greens. Avoid potatoes, peppers and aubergines for three years: they share the "
                    "tomatoes' diseases."
                ),
            )
        ],
        hours_ago=DAY * 3,
        project=project,
    )
    shelf.put(
        "Review of my cover letter",
        [
            (
                'Here is my letter: "I have always been passionate about logistics…" Be honest.',
                (
                    "Honest, then: nobody has *always* been passionate about logistics. Begin with the "
                    "warehouse you reorganised and the 18 % you saved; that is a sentence only you can write."
                ),
            )
        ],
        hours_ago=DAY * 55,
        gpt="g-pmuQfob8d",
    )


def _regenerated(shelf: Shelf) -> SimConversation:
    conversation = shelf.put(
        "A haiku about the first frost",
        [
            (
                "Write a haiku about the first frost.",
                "First frost on the lawn;\nthe dog, surprised, lifts each paw\nand looks back at me.",
            )
        ],
        hours_ago=1.9,
    )
    prompt = conversation.last("user")
    conversation.current_node = prompt
    answer(conversation, "Silver overnight:\nthe garden chair keeps the shape\nof someone long gone.")
    conversation.current_node = prompt
    answer(conversation, "A breath on the glass,\na name written and wiped off:\nwinter says hello.")
    ask(conversation, "The second one was better, but I like this too.")
    answer(conversation, "You can have both: one for the door, one for the drawer.")
    return conversation


def _edited(shelf: Shelf) -> SimConversation:
    conversation = shelf.put(
        "Birthday present for a ten-year-old",
        [
            (
                "What's a good present for a ten-year-old?",
                "A microscope, a good pocket knife, or a year of a science magazine.",
            )
        ],
        hours_ago=29,
    )
    above = conversation.mapping[conversation.last("user")]["parent"]
    conversation.current_node = above
    ask(
        conversation,
        "What's a good present for a ten-year-old who likes animals and has far too many toys? About 30 €.",
    )
    answer(
        conversation,
        (
            "Then something that isn't a toy:\n\n- **a day with a zookeeper** (many zoos have half-days for "
            "children)\n- a nest box with a little camera\n- *adopting* a hedgehog at the local rescue: it "
            "comes with a certificate and a photo"
        ),
    )
    ask(conversation, "The hedgehog! She will go mad with joy.")
    answer(conversation, "Do ask the rescue whether she may visit. Some let the children name the next one.")
    return conversation


def _long(shelf: Shelf) -> SimConversation:
    """Three hundred messages, besides the hidden one every conversation begins with."""
    chance = random.Random(300)
    turns: list[tuple[str, str]] = []
    problem = (17, 23)
    attempt = "Let's practise mental arithmetic. Multiplication, two digits each. Go!"
    reply = f"Gladly. Take your time.\n\n**{problem[0]} × {problem[1]}**"
    turns.append((attempt, reply))
    for number in range(2, ROUNDS + 1):
        left, right = problem
        result = left * right
        slip = chance.random() < 0.18
        attempt = str(result + chance.choice((-10, -1, 10, 100)) if slip else result)
        tens, ones = right // 10 * 10, right % 10
        way = f"{left} × {tens} = {left * tens}, {left} × {ones} = {left * ones}, together {result}"
        verdict = f"Not quite: {way}." if slip else f"{chance.choice(PRAISE)} {way[:1].upper() + way[1:]}."
        problem = (chance.randint(11, 59), chance.randint(11, 59))
        if number == ROUNDS:
            reply = f"{verdict}\n\nThat was number {number - 1}. Enough for tonight: you have become *fast*."
        else:
            reply = f"{verdict}\n\nNo. {number}: **{problem[0]} × {problem[1]}**"
        turns.append((attempt, reply))
    return shelf.put("Mental arithmetic, every evening", turns, hours_ago=DAY * 1.4, model="gpt-4o")
