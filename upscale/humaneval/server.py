"""The study as a web application: one page, three steps of a trial, pictures."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from upscale.document import counted
from upscale.errors import InputError
from upscale.humaneval.session import Refusal, Sessions
from upscale.humaneval.store import PICTURES, Failure, Store
from upscale.web import listener
from upscale.web.files import page_routes
from upscale.web.guard import LOOPBACK, BadRequest, Guard, keep_cookie, posted

MOST_PLACES = 5  # that one address of a network may hold without having begun
Endpoint = Callable[["Study", Request], Awaitable[Response]]


class Study:
    """What the endpoints share. Everything runs in the event loop, so that calls never overlap."""

    def __init__(self, store: Store, folder: Path, say: Callable[[str], None]) -> None:
        self.store, self.folder, self.say = store, folder, say
        self.sessions = Sessions(store)
        self.cookie = f"subject_{store.meta['study']}"  # cookies know no port: two studies differ
        self.secure = False
        self.most: int | None = None  # places that an address may hold without having begun
        self._places: dict[str, list[int]] = {}  # address -> subjects

    def admit(self, request: Request) -> str:
        """The address that asks for a place. Refused where it holds too many."""
        address = request.client.host if request.client else ""
        held = [one for one in self._places.get(address, []) if not self.store.begun(one)]
        self._places[address] = held
        if self.most is not None and len(held) >= self.most:
            raise Refusal(
                429, "places", "too many people here are about to begin; try again in some minutes"
            )
        return address

    def placed(self, address: str, subject: int) -> None:
        self._places[address].append(subject)

    def refused(self, what: str) -> None:
        """Refusals are kept and shown to the operator; who asked is neither."""
        line = what.encode("ascii", "backslashreplace").decode()[:300]
        self.say(f"refused: {line}")
        self.store.refuse(line)

    def say_counts(self) -> None:
        counts = self.store.counts()
        self.say(f"{counts['enrolled']} began, {counts['finished']} finished")

    def subject(self, request: Request) -> int:
        subject = self.sessions.subject(request.cookies.get(self.cookie))
        if subject is None:
            raise Refusal(401, "nobody", "no subject of this study")
        return subject


def application(
    store: Store,
    folder: Path,
    *,
    hosts: frozenset[str] | None = frozenset(LOOPBACK),
    access: str | None = None,
    secure: bool = False,
    most: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Starlette:
    """The ASGI application. hosts, access, secure: see `Guard`; most: places that an address may
    hold without having begun; say: lines for the operator."""
    study = Study(store, folder, say)
    study.most = most
    study.secure = secure
    posts = {"state": _state, "enrol": _enrol, "begin": _begin, "shown": _shown, "answer": _answer}
    routes = [
        *page_routes("upscale.humaneval", "page.css", "page.js", "display.js"),
        Route("/picture/{name}", partial(_guarded, study, _picture), methods=["GET"]),
        *(
            Route(f"/api/{name}", partial(_guarded, study, does), methods=["POST"])
            for name, does in posts.items()
        ),
    ]
    cookie = f"access_{store.meta['study']}"
    how = {"hosts": hosts, "access": access, "cookie": cookie, "secure": secure}
    guard = Middleware(Guard, **how, refused=study.refused)
    unknown = partial(_unknown, study)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: unknown})


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
    """Answer requests until SIGINT, SIGTERM or SIGHUP; `ready` gets the link once it listens.

    Without tunnel, on a loopback address, everybody on this machine may take part, under the names
    of loopback alone. Else the link holds an access token. Raises UsageError, OutputError, and
    InputError where the study lacks pictures, which subjects would find out.
    """
    there = {path.name for path in (folder / PICTURES).glob("*")}
    if missing := set(store.files().values()) - there:
        raise InputError(
            f"{folder / PICTURES}: lacks {counted(len(missing), 'picture')} of the study; copy "
            "the study with its pictures"
        )
    local = listener.is_local(host, tunnel)
    access = None if local else store.meta["access"]
    # behind a tunnel all come from one address, and on this machine all are its own
    most = None if local or tunnel else MOST_PLACES
    how = listener.door(host, tunnel, access)._asdict()
    app = application(store, folder, **how, most=most, say=say)
    # all is done in the event loop: a page that finds the file locked is answered so and retries
    store.db.execute("PRAGMA busy_timeout = 100")
    listener.serve(app, host, port, access=access, tunnel=tunnel, ready=ready)


async def _guarded(study: Study, does: Endpoint, request: Request) -> Response:
    """Every refusal becomes an answer and a line in the log."""
    try:
        return await does(study, request)
    except Refusal as error:
        status, code, why = error.status, error.code, str(error)
    except BadRequest as error:
        status, code, why = error.status, "form", str(error)
    except ClientDisconnect:
        return Response(status_code=400)
    except (Failure, OSError) as error:
        what = "not stored" if isinstance(error, Failure) else "a picture cannot be read"
        study.say(f"{what}: {error}")
        return JSONResponse({"code": "busy", "error": "try again"}, 503)
    study.refused(f"{status} {code}: {request.method} {request.url.path!r}: {why}")
    return JSONResponse({"code": code, "error": why}, status)


async def _unknown(study: Study, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    study.refused(f"{error.status_code} {request.method} {request.url.path!r}")
    return JSONResponse({"code": "unknown", "error": error.detail}, error.status_code)


async def _picture(study: Study, request: Request) -> Response:
    file = study.sessions.picture(study.subject(request), request.path_params["name"])
    # `file` is from the database; no date or tag of the file goes with its bytes
    return Response((study.folder / PICTURES / file).read_bytes(), media_type="image/png")


# --- what the page asks -----------------------------------------------------------------------


async def _state(study: Study, request: Request) -> Response:
    """Where this browser's subject stands; the asking tab becomes the one that may go on."""
    await posted(request)
    subject = study.sessions.subject(request.cookies.get(study.cookie))
    if subject is None:
        phase = "full" if study.sessions.full() else "consent"
        return JSONResponse({**_about(study), "phase": phase})
    tab = study.sessions.claim(subject)
    return JSONResponse({**_about(study), **study.sessions.state(subject), "tab": tab})


async def _enrol(study: Study, request: Request) -> Response:
    """Consent is given: a new subject, unless this browser has one that is not through."""
    await posted(request)
    subject = study.sessions.subject(request.cookies.get(study.cookie))
    key = None
    if subject is None or study.sessions.state(subject)["phase"] == "done":
        address = study.admit(request)
        subject, key = study.sessions.enrol()
        study.placed(address, subject)
    tab = study.sessions.claim(subject)
    response = JSONResponse({**_about(study), **study.sessions.state(subject), "tab": tab})
    if key is not None:
        keep_cookie(response, study.cookie, key, "strict", study.secure)
        study.say_counts()
    return response


async def _begin(study: Study, request: Request) -> Response:
    sent = await posted(request)
    study.sessions.begin(study.subject(request), _text(sent, "tab"), _text(sent, "trial"))
    return JSONResponse({})


async def _shown(study: Study, request: Request) -> Response:
    sent = await posted(request)
    told = {name: sent.get(name) for name in ("shown_ms", "frame_ms", "presented_ms", "zoom")}
    study.sessions.shown(study.subject(request), _text(sent, "tab"), _text(sent, "trial"), **told)
    return JSONResponse({})


async def _answer(study: Study, request: Request) -> Response:
    sent = await posted(request)
    subject, tab = study.subject(request), _text(sent, "tab")
    study.sessions.answer(subject, tab, _text(sent, "trial"), sent.get("side"), sent.get("rt_ms"))
    state = study.sessions.state(subject)
    if state["phase"] == "done":
        study.say_counts()
    return JSONResponse({**_about(study), **state, "tab": tab})


def _about(study: Study) -> dict[str, Any]:
    meta = study.store.meta
    fixed = {name: meta[name] for name in ("title", "seconds", "practice")}
    fixed["consent"] = re.split(r"\n\s*\n", meta["consent"])  # its paragraphs
    trials = meta["images"] + meta["checks"] + meta["practice"]
    minutes = max(1, round(trials * (meta["seconds"] + 3) / 60))
    return {**fixed, "trials": trials, "minutes": minutes}


def _text(sent: dict[str, Any], name: str) -> str:
    value = sent.get(name)
    if not isinstance(value, str) or not value.isascii():  # ours are; half a surrogate is no text
        raise BadRequest(400, f"{name} is missing or invalid")
    return value
