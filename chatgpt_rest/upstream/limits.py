# SPDX-License-Identifier: GPL-2.0-or-later
"""How long and how large anything upstream may be. Apart from the rest, so that the budget can know without httpx."""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024

LONGEST_ATTEMPT_SECONDS: Final = 120
"""From taking a token to the response's headers, everything included. The budget counts on it: a request whose fate is
not known has arrived by then, or never will. Compatible servers may hold the headers back until a model has thought.
"""

REQUEST_SECONDS: Final = 60
"""For anything but an ask, from the first byte to the last."""

DRAIN_SECONDS: Final = 0.5
"""How long what follows `[DONE]` may take. Reading it to the end gives the connection back; a longer wait costs more
than a new one.
"""

LARGEST_REPLY_BYTES: Final = 128 * MIB
"""A conversation of thousands of long messages is a few MB, and must still fit."""

LARGEST_REFUSAL_BYTES: Final = MIB
"""Of an error's body. Those with words in them hold less than a thousand bytes; the rest are pages."""

LONGEST_LINE_BYTES: Final = 8 * MIB
"""One event holds the whole answer so far: 128,000 tokens are about 600 kB, escaped six times that."""

LARGEST_STREAM_BYTES: Final = 1024 * MIB
"""Each event repeats the text so far, and the bytes grow with the square of its length: 40 kB of text in 10,000 events
are 200 MB.
"""
