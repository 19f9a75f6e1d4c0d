# SPDX-License-Identifier: GPL-2.0-or-later
"""A ChatGPT on loopback, for tests and the demo: the wire facts spoken truly, and faults on demand.

It shares nothing with the program it is asked by, so that a mistake in a parser cannot cancel itself out.
"""

from __future__ import annotations

from .accounts import Account
from .answers import answer_to, segments
from .conversations import SimConversation
from .faults import STREAM_FAULTS, BadKnob, Fault
from .openai_api import Reply, SimulatedOpenAI
from .refusals import NAMED as NAMED_ERRORS
from .requests import ReceivedRequest
from .server import SimulatedChatGPT

__all__ = [
    "NAMED_ERRORS",
    "STREAM_FAULTS",
    "Account",
    "BadKnob",
    "Fault",
    "ReceivedRequest",
    "Reply",
    "SimConversation",
    "SimulatedChatGPT",
    "SimulatedOpenAI",
    "answer_to",
    "segments",
]
