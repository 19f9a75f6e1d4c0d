# SPDX-License-Identifier: GPL-2.0-or-later
"""Where handlers find the parts of the simulation, and what a request learns on its way to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from .accounts import Account, Accounts
from .conversations import TimeForm
from .delivery import Delivery
from .faults import Faults
from .requests import ReceivedRequest


@dataclass(slots=True)
class Settings:
    """What is the same for all requests and can be changed at any time."""

    event_pause_seconds: float
    times: TimeForm = "mixed"


ACCOUNTS: Final = web.AppKey("accounts", Accounts)
FAULTS: Final = web.AppKey("faults", Faults)
REQUESTS: Final = web.AppKey("requests", list[ReceivedRequest])
SETTINGS: Final = web.AppKey("settings", Settings)

ACCOUNT: Final = web.RequestKey("account", Account)
DELIVERY: Final = web.RequestKey("delivery", Delivery)
RECEIVED: Final = web.RequestKey("received", ReceivedRequest)
