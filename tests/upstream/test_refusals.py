# SPDX-License-Identifier: GPL-2.0-or-later
"""Each thing upstream has been seen to say no with, and what it means here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimit,
    UpstreamNotFound,
    UpstreamRefusedToken,
    UpstreamRefusesPrograms,
    UpstreamRejected,
    UpstreamSlow,
)
from chatgpt_rest.upstream.refusals import (
    DEFAULT_LIMIT_SECONDS,
    LONGEST_LIMIT_SECONDS,
    no_answer,
    refusal,
    refusal_in_stream,
)

PAGE = b"<!DOCTYPE html><html><title>Just a moment...</title>rate limit, unusual activity</html>"
HOURLY = {"detail": "Too many requests in 1 hour. Try again later."}
ONE_AT_A_TIME = {"detail": "Only one message at a time. Please allow any other responses to complete."}
UNUSUAL = {"detail": "Our systems have detected unusual activity coming from your system."}


def refused(status: int, said: object, **headers: str) -> UpstreamError:
    """The error for a response with this body, given as bytes or as what its JSON says."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return refusal(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("status", "said", "kind", "code"),
    [
        (401, {"detail": "Could not parse your authentication token."}, UpstreamRefusedToken, "access_token_refused"),
        (401, {"detail": {"code": "token_expired", "message": "…"}}, UpstreamRefusedToken, "access_token_refused"),
        (401, PAGE, UpstreamRefusedToken, "access_token_refused"),
        (403, {"detail": {"code": "token_expired", "message": "…"}}, UpstreamRefusedToken, "access_token_refused"),
        (403, {"detail": "forbidden"}, UpstreamBroken, "upstream_forbidden"),
        (403, PAGE, UpstreamRefusesPrograms, "upstream_refuses_programs"),
        (403, b"error code: 1020", UpstreamRefusesPrograms, "upstream_refuses_programs"),
        (403, b"", UpstreamRefusesPrograms, "upstream_refuses_programs"),
        (403, UNUSUAL, UpstreamRefusesPrograms, "upstream_refuses_programs"),
        (404, {"detail": "Conversation not found"}, UpstreamNotFound, "not_found"),
        (404, {"detail": "Gizmo not found"}, UpstreamNotFound, "not_found"),
        (404, PAGE, UpstreamBroken, "upstream_unknown_path"),
        (404, b"404 page not found", UpstreamBroken, "upstream_unknown_path"),
        (404, b"", UpstreamBroken, "upstream_unknown_path"),
        (400, {"detail": "Something is wrong"}, UpstreamRejected, "upstream_rejected"),
        (413, [{"loc": ["body"], "msg": "too large", "type": "…"}], UpstreamRejected, "upstream_rejected"),
        (413, {"detail": {"code": "message_length_exceeds_limit"}}, UpstreamRejected, "upstream_rejected"),
        (422, {"detail": [{"loc": ["body"], "msg": "too many requests"}]}, UpstreamRejected, "upstream_rejected"),
        (405, {"detail": "Method Not Allowed"}, UpstreamRejected, "upstream_rejected"),
        (408, b"", UpstreamSlow, "upstream_slow"),
        (429, HOURLY, UpstreamLimit, "upstream_rate_limit"),
        (400, HOURLY, UpstreamLimit, "upstream_rate_limit"),
        (429, PAGE, UpstreamLimit, "upstream_rate_limit"),
        (403, {"error": {"code": "rate_limit_exceeded", "message": ""}}, UpstreamLimit, "upstream_rate_limit"),
        (429, ONE_AT_A_TIME, UpstreamBusy, "upstream_busy"),
        (400, ONE_AT_A_TIME, UpstreamBusy, "upstream_busy"),
        (500, b"Internal Server Error", UpstreamBroken, "upstream_broken"),
        (502, PAGE, UpstreamBroken, "upstream_broken"),
        (503, b"upstream connect error", UpstreamBroken, "upstream_broken"),
        (302, b"", UpstreamBroken, "upstream_unknown_path"),
    ],
)
def test_a_refusal_is_told_by_its_words_and_then_by_its_status(
    status: int, said: object, kind: type[UpstreamError], code: str
) -> None:
    """The same limit comes as 400 and 429, the same bot check as a page and as JSON."""
    error = refused(status, said)
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize("said", [{"detail": {"code": "x"}}, {"detail": [1]}, ["a"], "words", {"error": None}])
def test_the_body_is_upstreams_json_as_sent(said: object) -> None:
    """What upstream said goes on to the client unchanged, whatever its shape."""
    assert refused(400, said).body == said


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_page_is_never_a_body(status: int) -> None:
    """HTML is not shown to a client of a JSON API, and its words are not read."""
    assert refused(status, PAGE).body is None


@pytest.mark.parametrize(
    ("code", "is_gone"),
    [("conversation_not_found", True), ("conversation_deleted", True), ("conversation_inaccessible", False)],
)
def test_an_inaccessible_conversation_is_not_gone(code: str, is_gone: bool) -> None:
    """Another account's conversation is not taken for a deleted one."""
    error = refused(404, {"detail": {"code": code, "message": "…"}})
    assert isinstance(error, UpstreamNotFound)
    assert error.is_gone is is_gone


@pytest.mark.parametrize(
    "said",
    [
        *({"detail": text} for text in ("Conversation not found", "conversation not found.")),
        {"error": {"message": "Conversation not found"}},
    ],
    ids=str,
)
def test_the_plain_words_say_that_a_conversation_is_gone(said: object) -> None:
    """The older 404 has no code, and its words are those of that very conversation."""
    error = refused(404, said)
    assert isinstance(error, UpstreamNotFound)
    assert error.is_gone


@pytest.mark.parametrize(
    "said",
    [
        *({"detail": text} for text in ("Not Found", "Gizmo not found", "User not found", "", None)),
        *({"detail": {"code": code, "message": "Conversation not found"}} for code in ("not_found", "gizmo_not_found")),
        *(None, {}, [], 7, "Not Found"),
    ],
    ids=str,
)
def test_any_other_404_proves_nothing_gone(said: object) -> None:
    """A wrong base_url answers 404 to everything; nothing is marked as deleted for it."""
    error = refused(404, said)
    assert isinstance(error, UpstreamNotFound)
    assert not error.is_gone


def test_a_models_cap_blocks_that_model_only() -> None:
    """`model_cap_exceeded` says when it clears, and holds for one model."""
    error = refused(429, {"detail": {"code": "model_cap_exceeded", "clears_in": 252, "message": "usage cap"}})
    assert isinstance(error, UpstreamLimit)
    assert error.is_of_one_model
    assert error.retry_after_seconds == 252


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, DEFAULT_LIMIT_SECONDS),
        ({"retry_after": "90"}, 90),
        ({"retry_after": "soon"}, DEFAULT_LIMIT_SECONDS),
        ({"retry_after": "-5"}, DEFAULT_LIMIT_SECONDS),
        ({"retry_after": "nan"}, DEFAULT_LIMIT_SECONDS),
        ({"retry_after": "1e300"}, LONGEST_LIMIT_SECONDS),
        ({"retry_after": "Wed, 14 Oct 2026 10:05:00 GMT", "date": "Wed, 14 Oct 2026 10:00:00 GMT"}, 300),
        ({"retry_after": "Wed, 14 Oct 2026 10:05:00 GMT"}, DEFAULT_LIMIT_SECONDS),
        ({"retry_after": "Wed, 14 Oct 2026 10:05:00 GMT", "date": "Wed, 14 Oct 2026 10:00:00 -0000"}, 3600),
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers: dict[str, str], expected: int) -> None:
    """Seconds, or a date held against the response's own; anything else is the default."""
    assert refused(429, HOURLY, **headers).retry_after_seconds == expected


@pytest.mark.parametrize("clears_in", [True, "252", None, 10**400, float("inf"), -1])
def test_nonsense_in_clears_in_is_the_default(clears_in: object) -> None:
    """A number that is none does not block an account for ever, nor crash."""
    error = refused(429, {"detail": {"code": "model_cap_exceeded", "clears_in": clears_in}})
    assert error.retry_after_seconds == DEFAULT_LIMIT_SECONDS


def test_the_bot_check_names_the_alternatives() -> None:
    """Who is turned away as a program is told what else to do."""
    assert "base_url" in refused(403, PAGE).text
    assert "openai" in refused(403, PAGE).text


def test_a_forbidden_may_be_an_expired_token() -> None:
    """403 `forbidden` says so."""
    assert "expired" in refused(403, {"detail": "forbidden"}).text


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (UNUSUAL["detail"], UpstreamRefusesPrograms),
        (HOURLY["detail"], UpstreamLimit),
        (ONE_AT_A_TIME["detail"], UpstreamBusy),
        ({"code": "model_cap_exceeded", "message": "…"}, UpstreamLimit),
        ({"code": "token_expired"}, UpstreamRefusedToken),
        ("Something went wrong.", UpstreamBroken),
        (True, UpstreamBroken),
    ],
)
def test_an_error_in_a_stream_is_told_by_the_same_words(said: object, kind: type[UpstreamError]) -> None:
    """Limits and bot checks come in mid-stream, too."""
    error = refusal_in_stream(said)
    assert type(error) is kind
    assert error.body == said


def test_no_answer_at_all_has_its_own_code() -> None:
    """Nothing is told apart from a page and from JSON in the place of a stream."""
    assert no_answer(b"").code == "upstream_empty_answer"
    assert no_answer(b"<html>").code == "upstream_broken"
    assert isinstance(no_answer(json.dumps(HOURLY).encode()), UpstreamLimit)


@given(
    st.integers(300, 599),
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text(max_size=40)),
)
def test_whatever_upstream_says_it_is_an_error_of_ours(status: int, body: bytes, headers: dict[str, str]) -> None:
    """No body and no header makes the classification itself fail."""
    assert isinstance(refusal(status, body, headers), UpstreamError)


def test_json_nested_beyond_reason_is_no_json() -> None:
    """100,000 brackets are answered, not crashed on."""
    assert isinstance(refused(400, b"[" * 100_000), UpstreamRejected)
