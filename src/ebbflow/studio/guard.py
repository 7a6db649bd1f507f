"""Who may ask, and how much: the token, the Host and the Origin, bytes, and what every answer says to a browser."""

from __future__ import annotations

import hmac
import ipaddress
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ebbflow.errors import ConfigError
from ebbflow.studio.meter import Meter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
OPEN = ("/healthz",)  # answered without a token
SHORTEST = 16  # characters of a token


class TooLargeError(Exception):
    """A body of more bytes than are taken."""


def read_token(path: Path | None, host: str) -> str | None:
    """The token in a file; None where none is set.

    Raises:
        ConfigError: no such file, a token that is too short or not one line, or none although others can reach `host`.
    """
    if path is None:
        if not is_loopback(host):
            raise ConfigError(
                f"`host` {host!r} can be reached by others: set a token with `token_file`, or listen on 127.0.0.1."
            )
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`token_file` {path} cannot be read: {error}.") from None
    if len(token) < SHORTEST or not token.isascii() or any(c.isspace() for c in token):
        raise ConfigError(f"`token_file` {path} must hold one line of {SHORTEST} ASCII characters or more, no spaces.")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def error_body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Guard:
    """Around the whole application.

    Args:
        app: the application.
        token: what requests must bring; None for none.
        local: whether Host must be a name of this machine, against names that are bent to it.
        most_bytes: of a body.
        free: paths, or beginnings of them ending in "/", that need no token.
        meter: counts requests.
    """

    def __init__(
        self, app: App, *, token: str | None, local: bool, most_bytes: int, meter: Meter, free: tuple[str, ...] = OPEN
    ) -> None:
        self.app, self.token, self.local, self.most_bytes = app, token, local, most_bytes
        self.meter, self.free = meter, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), [500]

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                own = {name for name, _ in message.get("headers", [])}
                extra = {**HEADERS, "x-request-id": uuid.uuid4().hex}
                more = [(k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in own]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            refused = self.refused(scope)
            if refused is None:
                await self.app(scope, self._counted(receive), sending)
            else:
                await _answer(sending, *refused)
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            self.meter.add("requests_total", route=route, status=status[0])
            self.meter.observe("request_seconds", time.monotonic() - began, route=route)

    def refused(self, scope: Scope) -> tuple[int, dict[str, Any]] | None:
        """Status and body of the refusal of a request by its head; None where it may pass."""
        head = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.local and not is_loopback(_host(head.get("host", ""))):
            return 403, error_body("this server answers to localhost only.", "permission_error", "bad_host")
        if not _same_origin(head):
            return 403, error_body("requests of other sites are not answered.", "permission_error", "bad_origin")
        length = head.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            return self.too_large()
        if not self._is_free(scope["path"]) and not self._knows_token(head.get("authorization", "")):
            message = "a token is wanted: the header Authorization with Bearer and the token."
            return 401, error_body(message, "authentication_error", "invalid_api_key")
        return None

    def _is_free(self, path: str) -> bool:
        return any(path == one or (len(one) > 1 and one.endswith("/") and path.startswith(one)) for one in self.free)

    def _knows_token(self, given: str) -> bool:
        if self.token is None:
            return True
        scheme, _, token = given.partition(" ")
        fits = hmac.compare_digest(token.strip().encode(), self.token.encode())
        return fits and scheme.lower() == "bearer"

    def too_large(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the refusal of a body that is too large."""
        message = f"a request of at most {self.most_bytes:,} bytes is taken."
        return 413, error_body(message, "invalid_request_error", "too_large")

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that stops where the body grows beyond the limit, whatever its head said."""
        seen = 0

        async def counting() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise TooLargeError
            return message

        return counting


def _host(value: str) -> str:
    """The name in a Host header, without the port."""
    return value.rpartition("]")[0] + "]" if value.startswith("[") else value.partition(":")[0]


def _same_origin(head: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    if head.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = head.get("origin")
    return origin is None or origin.partition("://")[2] == head.get("host")


async def _answer(send: Send, status: int, body: Mapping[str, Any]) -> None:
    content = json.dumps(body).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    head += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": content})
