"""The response, within bounds, as the job's result."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import aiohttp

MAX_RESULT_BYTES = 1 << 20  # of the result as JSON: the cluster's default limit (R14)
_CHUNK = 64 << 10
_START = 4 << 10


class TooLarge(Exception):
    """The text says what is, and over which limit."""


async def read_body(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed. TooLarge as soon as it is over `limit`, with no more than that in memory."""
    if answer.method != "HEAD" and (answer.content_length or 0) > limit:
        raise TooLarge(_over(limit))
    parts = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        parts += chunk
        if len(parts) > limit:
            raise TooLarge(_over(limit))
    return bytes(parts)


async def read_start(answer: aiohttp.ClientResponse) -> bytes:
    """As much of the body as an error may want to quote."""
    parts = bytearray()
    async for chunk in answer.content.iter_chunked(_START):
        parts += chunk
        if len(parts) >= _START:
            break
    return bytes(parts[:_START])


def _over(limit: int) -> str:
    return f"the answer's body is over {limit:,} bytes (TASKFLOW_HTTP_MAX_RESPONSE_BYTES)"


def result_of(answer: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
    """Status, headers (names in small letters, repeated ones joined), and the body: JSON as its value, text as text.

    Any other body comes in base64, and `encoding` says so.
    """
    headers: dict[str, str] = {}
    for name, value in answer.headers.items():
        plain = value.encode("utf-8", "replace").decode()
        key = name.lower()
        headers[key] = f"{headers[key]}, {plain}" if key in headers else plain
    result: dict[str, Any] = {"status": answer.status, "headers": headers, "body": None}
    if not body:
        return result
    text = decoded(answer, body)
    if text is None:
        return {**result, "body": base64.b64encode(body).decode(), "encoding": "base64"}
    return {**result, "body": _parsed(text) if _is_json(answer.content_type) else text}


def decoded(answer: aiohttp.ClientResponse, body: bytes) -> str | None:
    """The body as text, by its charset or UTF-8; None for what is no text."""
    try:
        return body.decode(answer.charset or "utf-8").encode().decode()  # some charsets make half characters
    except (LookupError, ValueError):
        return None


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json")


def _parsed(text: str) -> Any:
    """The JSON value; the text where it is none that can be kept (too deep, numbers beyond bounds, half characters)."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return text
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def check_size(result: Mapping[str, Any]) -> None:
    """TooLarge for a result that the cluster would not keep."""
    size = len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_RESULT_BYTES:
        raise TooLarge(f"the answer makes a result of {size:,} bytes, and a job's result has {MAX_RESULT_BYTES:,}")


def retry_after(answer: aiohttp.ClientResponse) -> float | None:
    """The seconds that the answer asks to wait: a number, or a time, which counts from the answer's own Date."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    then, now = _instant(value), _instant(answer.headers.get("Date", ""))
    return None if then is None or now is None else max(0.0, (then - now).total_seconds())


def _instant(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
