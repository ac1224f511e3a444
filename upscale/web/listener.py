"""A web application behind uvicorn: where it listens, what opens its link, how it stops."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from upscale.errors import OutputError, UsageError
from upscale.web.guard import LOOPBACK, MOST_SECONDS

_UVICORN = {
    "access_log": False,
    "log_level": "warning",
    "server_header": False,
    "proxy_headers": False,
    "lifespan": "off",
    "ws": "none",
    "timeout_keep_alive": 30,  # seconds; a page's next request comes before that
    "timeout_graceful_shutdown": 5,
    "limit_concurrency": 500,  # connections; more are answered 503, and the page tries again
}


class Door(NamedTuple):
    """How a `Guard` knows who may come in: hosts, access and secure are its own."""

    hosts: frozenset[str] | None
    access: str | None
    secure: bool


def is_local(host: str, tunnel: str | None) -> bool:
    """Whether only this machine can reach a server there."""
    return _is_loopback(host) and not tunnel


def door(host: str, tunnel: str | None, access: str | None) -> Door:
    """For a server at this address, and behind a tunnel if there is one; access: the token of its
    link, None for no need of one. Raises UsageError for a tunnel that is no address."""
    tunnel_host = _host_of(tunnel) if tunnel else None
    hosts = None  # any: an address of this machine may have many names, and there is the token
    if _is_loopback(host):
        hosts = frozenset({*LOOPBACK, _in_url(host), *([tunnel_host] if tunnel_host else [])})
    return Door(hosts, access, bool(tunnel and tunnel.startswith("https:")))


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    access: str | None,
    tunnel: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP; `ready` gets the link, which holds the
    access token if there is one, once it listens. Raises OutputError."""
    with _listening(host, port) as listener:
        base = tunnel.rstrip("/") if tunnel else _address(host, listener.getsockname()[1])
        link = f"{base}/" + (f"?access={access}" if access else "")
        server = _Server(uvicorn.Config(app, http=_Prompt, **_UVICORN), lambda: ready(link))
        server.run(sockets=[listener])


def show(link: str) -> None:
    """Open the browser. Some return once they are closed, and are to be answered until then."""
    threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()


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
    """Tells when it listens, and ends in order where its terminal is closed, too."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        with suppress(AttributeError, NotImplementedError):  # on Windows
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._ready()

    def _hang_up(self) -> None:
        self.should_exit = True


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
    if host in ("", "0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{_in_url(host)}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host_of(url: str) -> str:
    """The name in the address of a tunnel. Raises UsageError."""
    try:
        parts = urlsplit(url)
        name, _ = parts.hostname, parts.port
    except ValueError:
        name = None
    if not name or parts.scheme not in ("http", "https"):
        raise UsageError(f"--tunnel {url}: is no address; write https://name.example")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(
            f"--tunnel {url}: the page works at the top of an address only; write "
            f"{parts.scheme}://{parts.netloc}"
        )
    return _in_url(name)
