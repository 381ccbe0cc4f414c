"""Forms that only the console's own pages can send.

Two guards, each enough by itself: the browser says which page a form came from (Sec-Fetch-Site, Origin), and the form
bears the token of this browser's cookie, which no other page can read.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from taskflow_server.gateway.errors import Failure

COOKIE = "taskflow_forms"
FIELD = "form_token"
MOST_FIELDS = 50
_LENGTH = 43  # characters of a token


def token_of(request: Request) -> str:
    """The browser's token; a new one if it has none."""
    found = request.cookies.get(COOKIE, "")
    well = len(found) == _LENGTH and found.isascii() and found.replace("-", "").replace("_", "").isalnum()
    return found if well else secrets.token_urlsafe(32)


def remember(response: Response, request: Request, token: str) -> None:
    """Puts the token into the browser, unless it is there."""
    if request.cookies.get(COOKIE) != token:
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")


async def sent(request: Request) -> dict[str, str]:
    """The fields of a form that a page of the console sent. Failure 403 for any other."""
    _same_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Failure(400, "INVALID_ARGUMENT", "a form must be sent as application/x-www-form-urlencoded")
    try:
        fields = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise Failure(400, "INVALID_ARGUMENT", "the body is not a valid form") from None
    cookie = request.cookies.get(COOKIE, "")
    if not cookie or not hmac.compare_digest(cookie.encode(), fields.pop(FIELD, "").encode()):
        words = "this form is not of this browser, or too old: go back, reload the page and try again"
        raise Failure(403, "PERMISSION_DENIED", words, FIELD, "FORM_TOKEN")
    return fields


def _same_origin(request: Request) -> None:
    site, origin = request.headers.get("sec-fetch-site", ""), request.headers.get("origin", "")
    ours = origin and urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    if not ours or site not in ("", "same-origin"):
        words = f"this form came from {origin[:200] or 'nowhere'}, and only pages of this gateway may send it"
        raise Failure(403, "PERMISSION_DENIED", words, reason="OTHER_ORIGIN")
