"""A study's web application behind uvicorn: where it listens, what its link is, how it stops."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from upscale.errors import OutputError, UsageError
from upscale.humaneval.guard import MOST_SECONDS
from upscale.humaneval.server import LOOPBACK, application
from upscale.humaneval.store import Store

_UVICORN = {
    "access_log": False,
    "log_level": "warning",
    "server_header": False,
    "proxy_headers": False,
    "lifespan": "off",
    "ws": "none",
    "timeout_keep_alive": 30,  # seconds; a subject's next request comes before that
    "timeout_graceful_shutdown": 5,
    "limit_concurrency": 500,  # connections; more are answered 503, and the page tries again
}
MOST_PLACES = 5  # that one address of a network may hold without having begun


def serve(
    store: Store,
    folder: Path,
    host: str,
    port: int,
    *,
    tunnel: str | None = None,
    say: Callable[[str], None],
    ready: Callable[[str], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM; `ready` is called with the link once it listens.

    Without tunnel, on a loopback address, everybody on this machine may take part, under the names
    of loopback alone. Else the link holds an access token. Raises UsageError and OutputError.
    """
    tunnel_host = _host_of(tunnel) if tunnel else None
    local = _is_loopback(host)
    access = None if local and not tunnel else store.meta["access"]
    hosts = None  # any: an address of this machine may have many names, and there is the token
    if local:
        hosts = frozenset({*LOOPBACK, *([tunnel_host] if tunnel_host else [])})
    secure = bool(tunnel and tunnel.startswith("https:"))
    # behind a tunnel all come from one address, and on this machine all are its own
    most = None if local or tunnel else MOST_PLACES
    app = application(store, folder, hosts=hosts, access=access, secure=secure, most=most, say=say)
    # all is done in the event loop: a page that finds the file locked is answered so and retries
    store.db.execute("PRAGMA busy_timeout = 100")
    with _listening(host, port) as listener:
        base = tunnel.rstrip("/") if tunnel else _address(host, listener.getsockname()[1])
        link = f"{base}/" + (f"?access={access}" if access else "")
        server = _Server(uvicorn.Config(app, http=_Prompt, **_UVICORN), lambda: ready(link))
        server.run(sockets=[listener])


class _Prompt(H11Protocol):
    """Closes a connection whose request is not there in time: uvicorn has no limit for that."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect()  # a part of its head
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(error)

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(MOST_SECONDS, self.transport.close)


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"{host}:{port}: cannot listen there: {error.strerror or error}; give another --port "
            "or --host"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str, port: int) -> str:
    """What to type in a browser; for all addresses of a machine, its name in the network."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _host_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--tunnel {url}: is no address; write https://name.example")
    return parts.hostname
