"""What every request must pass before an application sees it, and what every answer carries."""

from __future__ import annotations

import asyncio
import hmac
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_SECONDS = 10.0  # for a request to arrive, and for each part of a file
MOST_BYTES = 4096  # of a request's body, unless a page needs more; most are about 300
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
JSON, BYTES = "application/json", "application/octet-stream"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
NO_ACCESS = "This page is open to those who have its link. Ask for it, and open it whole."


@dataclass(eq=False)
class Guard:
    """ASGI middleware: known host, access token, headers.

    hosts: names under which the server may be called, or None for any (then there is a token);
    it keeps pages of the web from reaching a loopback server by a name of their own.
    access: the token of the link, or None. cookie: where a browser keeps it.
    """

    app: ASGIApp
    hosts: frozenset[str] | None
    access: str | None
    cookie: str
    secure: bool
    refused: Callable[[str], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        response = self._stopped(Request(scope))
        await (response or self.app)(scope, receive, with_headers)

    def _stopped(self, request: Request) -> Response | None:
        """The answer to a request that may not go on."""
        host = _host_of(request.headers)
        if self.hosts is not None and host not in self.hosts:
            self.refused(f"400 host {host!r}")
            return PlainTextResponse("Unknown host. A tunnel is named by --tunnel URL.", 400)
        if self.access is None:
            return None
        given = request.query_params.get("access")
        if given is not None and request.method == "GET" and request.url.path == "/":
            if _same(given, self.access):
                # the token leaves the address bar, so that it is not handed on with a screenshot
                response: Response = RedirectResponse("/", 303)
                keep_cookie(response, self.cookie, self.access, "lax", self.secure)
                return response
        elif _same(request.cookies.get(self.cookie, ""), self.access):
            return None
        self.refused(f"403 no access: {request.method} {request.url.path!r}")
        return PlainTextResponse(NO_ACCESS, 403)


class BadRequest(Exception):
    """A request whose form is wrong."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def _check_ours(request: Request, kind: str) -> None:
    """BadRequest unless it comes from our own page, with a body of this type."""
    headers = request.headers
    # a form on another site can neither send this type nor hide where it comes from
    if headers.get("content-type", "").partition(";")[0].strip() != kind:
        raise BadRequest(415, f"the body is not {kind}")
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # a page cannot write it, and no tunnel rewrites it
        if site != "same-origin":
            raise BadRequest(403, f"from a page that is {site!r}")
    elif origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise BadRequest(403, f"from another origin: {origin!r}")


async def posted(request: Request, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object of a POST from our own page, of at most so many bytes. Raises BadRequest."""
    _check_ours(request, JSON)
    body = io.BytesIO()
    try:
        await asyncio.wait_for(_received(request, body, most), MOST_SECONDS)
    except asyncio.TimeoutError:
        raise BadRequest(408, f"no whole body within {MOST_SECONDS:g} s") from None
    try:
        sent = json.loads(body.getvalue())
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, "the body is not JSON") from error
    if not isinstance(sent, dict):
        raise BadRequest(400, "the body is not an object")
    return sent


async def uploaded(request: Request, file: BinaryIO, most: int) -> None:
    """Write the body of a POST from our own page to a file. Raises BadRequest for more than `most`
    bytes, and where nothing more comes; OSError where it cannot be written."""
    _check_ours(request, BYTES)
    await _received(request, file, most)


async def _received(request: Request, file: BinaryIO, most: int) -> None:
    parts, size = request.stream(), 0
    try:
        while part := await asyncio.wait_for(anext(parts, b""), MOST_SECONDS):
            size += len(part)
            if size > most:
                raise BadRequest(413, f"more than {most} bytes, which is the limit")
            file.write(part)
    except asyncio.TimeoutError:
        raise BadRequest(408, f"nothing came for {MOST_SECONDS:g} s") from None


def keep_cookie(response: Response, name: str, value: str, samesite: str, secure: bool) -> None:
    """For a month, and out of reach of scripts."""
    response.set_cookie(
        name, value, max_age=30 * 86400, httponly=True, samesite=samesite, secure=secure
    )


def _host_of(headers: Headers) -> str:
    """The name in the Host header, without port."""
    host = headers.get("host", "").lower()
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _same(given: str, true: str) -> bool:
    return hmac.compare_digest(given.encode(), true.encode())
