# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of a stream's events: read leniently, since an event that is lost may be the last words of an answer."""

from __future__ import annotations

import json
import math
from typing import Final

from chatgpt_rest.chatgpt_json import is_too_deep

_DEEPEST_UNCOUNTED: Final = 100  # brackets: an event with fewer cannot be nested deeper


def decode(data: bytes) -> object:
    """The value that `data` holds. A byte that is no UTF-8 costs one character, not the event; what is not finite is
    null.

    Raises ValueError or RecursionError for what is no JSON, or is nested too deep.
    """
    value = _DECODER.decode(data.decode("utf-8", "replace"))
    if data.count(b"[") + data.count(b"{") > _DEEPEST_UNCOUNTED and is_too_deep(value):
        raise ValueError
    return value


def decode_words(raw: bytes) -> str:
    """The characters that `raw` stands for between the quotes of a string. Raises ValueError where it cannot stand
    there, or begins or ends inside a character.
    """
    words = raw.decode()
    if "\\" not in words and '"' not in words:
        return words
    whole: str = _DECODER.decode(f'"{words}"')
    return whole


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


# What is not finite could not be written as JSON again.
_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None, strict=False)
