# SPDX-License-Identifier: GPL-2.0-or-later
"""The token bucket that keeps its promise: no rolling hour at upstream's end ever sees more than its capacity.

A bucket of 50 that refills at 50 an hour lets 99 requests through in its first hour. Here each token comes back one
hour after its request *reached* upstream, which is known by an upper bound only: `arrived_by`, the moment the
response's headers came or the attempt failed, and until then the moment the token was taken plus the longest time an
attempt may last. So tokens are held too long rather than too short, a full burst is allowed, and nothing is refused
while fewer than the capacity arrived in the last hour.

The rule lives here. Its state is the log of requests in `mirror/request_log.py`, where the same rule is one atomic SQL
statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from chatgpt_rest.clock import HOUR, SECOND

WINDOW: Final = HOUR
"""How long a token is away after its request reached upstream (µs)."""

NO_LIMIT: Final = 2**53
"""The capacity of a bucket that is never empty: more than any hour could take."""


@dataclass(frozen=True, slots=True)
class Budget:
    """An account's bucket at one moment. Times in µs; `capacity` is at least 1."""

    capacity: int
    held_until: tuple[int, ...]
    """When each token that is away comes back, soonest first."""
    now: int
    blocked_until: int | None = None
    """Upstream's own limit: nothing may leave before."""

    @property
    def is_limited(self) -> bool:
        """Whether the bucket can be empty; upstream's own limit holds either way."""
        return self.capacity < NO_LIMIT

    @property
    def used(self) -> int:
        return len(self.held_until)

    @property
    def remaining(self) -> int:
        """Requests that may leave now."""
        return 0 if self.is_blocked else max(0, self.capacity - self.used)

    @property
    def is_blocked(self) -> bool:
        return self.blocked_until is not None and self.blocked_until > self.now

    @property
    def next_token_at(self) -> int:
        """The first moment at which a request may leave: `now` where one may leave already."""
        times = [self.now]
        if self.is_blocked and self.blocked_until is not None:
            times.append(self.blocked_until)
        if self.used >= self.capacity:
            times.append(self.held_until[self.used - self.capacity])
        return max(times)

    @property
    def more_at(self) -> int:
        """When more requests may leave than now; `now` where every token is there."""
        if self.remaining == 0 or not self.is_limited:
            return self.next_token_at
        return self.held_until[0] if self.held_until else self.now

    @property
    def full_at(self) -> int:
        """When every token will be back, if none is taken until then."""
        return max((self.now, *self.held_until))

    def time_of(self, number: int) -> int:
        """When the `number`-th request from now leaves (1 is the next one), if nobody else takes a token until then."""
        if not self.is_limited:
            return self.next_token_at
        if self.used >= self.capacity:
            slots = list(self.held_until[self.used - self.capacity :])
        else:
            slots = [self.now] * (self.capacity - self.used) + list(self.held_until)
        if self.blocked_until is not None:
            slots = [max(slot, self.blocked_until) for slot in slots]
        rounds, slot = divmod(number - 1, self.capacity)
        return slots[slot] + rounds * WINDOW

    @property
    def wait_seconds(self) -> float:
        return (self.next_token_at - self.now) / SECOND


def budget(arrived_by: Iterable[int], *, capacity: int, now: int, blocked_until: int | None = None) -> Budget:
    """The bucket of an account whose requests reached upstream no later than `arrived_by` (µs, any order, older ones
    welcome).
    """
    held_until = sorted(time + WINDOW for time in arrived_by if time + WINDOW > now)
    return Budget(capacity=capacity, held_until=tuple(held_until), now=now, blocked_until=blocked_until)
