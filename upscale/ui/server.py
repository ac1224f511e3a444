"""The page as a web application: uploads, the queue's state, pictures before and after."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from upscale.errors import DiffsrError, InputError, UsageError
from upscale.ui.pictures import Pictures
from upscale.ui.views import view_of
from upscale.ui.wishes import Wish, form
from upscale.web.files import page_routes
from upscale.web.guard import LOOPBACK, BadRequest, Guard, posted, uploaded

MOST_UPLOAD = 1 << 30  # bytes of a file
MOST_ASKED = 1 << 20  # bytes of a request: the numbers of all pictures, some 100,000
_STATUS = {UsageError: 400, InputError: 422}  # of other errors of ours: 507
Endpoint = Callable[[Pictures, Wish, Request], Awaitable[Response]]


def application(
    pictures: Pictures,
    wish: Wish,
    *,
    access: str | None,
    hosts: frozenset[str] | None = frozenset(LOOPBACK),
    secure: bool = False,
    cookie: str = "diffsr_ui",
    say: Callable[[str], None] = lambda text: None,
) -> Starlette:
    """The ASGI application. wish: what the page's options are added to; access, hosts, secure,
    cookie: see `Guard`; say: lines for the operator."""
    gets = {"/api/form": _form, "/api/state": _state, "/picture/{number:int}/{which}": _picture}
    posts = {"add": _add, "start": _start, "cancel": _cancel, "save": _save, "remove": _remove}
    own = partial(partial, _guarded, pictures, wish)
    routes = [
        *page_routes("upscale.ui", "page.css", "page.js"),
        *(Route(path, own(does), methods=["GET"]) for path, does in gets.items()),
        *(Route(f"/api/{name}", own(does), methods=["POST"]) for name, does in posts.items()),
    ]
    how = {"hosts": hosts, "access": access, "cookie": cookie, "secure": secure}
    refused = lambda what: say(f"refused: {what.encode('ascii', 'backslashreplace').decode()}")  # noqa: E731
    return Starlette(routes=routes, middleware=[Middleware(Guard, **how, refused=refused)])


async def _guarded(pictures: Pictures, wish: Wish, does: Endpoint, request: Request) -> Response:
    """Every refusal becomes an answer with its reason."""
    try:
        return await does(pictures, wish, request)
    except BadRequest as error:
        return JSONResponse({"error": str(error)}, error.status)
    except DiffsrError as error:
        return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 507))
    except OSError as error:
        why = f"{pictures.folder}, the folder of pictures not saved: {error.strerror or error}"
        return JSONResponse({"error": why}, 507)
    except ClientDisconnect:
        return Response(status_code=400)


async def _form(pictures: Pictures, wish: Wish, request: Request) -> Response:
    return JSONResponse(form(wish))


async def _state(pictures: Pictures, wish: Wish, request: Request) -> Response:
    since = request.query_params.get("since", "0")
    return JSONResponse(pictures.state(int(since) if since.isdecimal() else 0))


async def _picture(pictures: Pictures, wish: Wish, request: Request) -> Response:
    """before and after: as a browser can show them; file: the result itself, to be kept."""
    entry, which = pictures.found(request.path_params["number"]), request.path_params["which"]
    path = {"before": entry.source, "after": entry.result, "file": entry.result}.get(which)
    if path is None:
        raise UsageError(f"there is no {which!r:.20} of this picture")
    if which == "file":
        path.stat()  # that it is gone can be told until the answer begins
        return FileResponse(path, filename=path.name)
    shown, kind = await run_in_threadpool(view_of, path, wish.files)
    return FileResponse(shown, media_type=kind)


async def _add(pictures: Pictures, wish: Wish, request: Request) -> Response:
    """The body is a file, of the name in the address."""
    path = pictures.place(request.query_params.get("name", ""))
    try:
        with open(path, "xb") as file:
            await uploaded(request, file, MOST_UPLOAD)
        entry = await run_in_threadpool(pictures.add, path, wish)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise InputError(f"{path.name}: cannot be kept: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise
    return JSONResponse({"number": entry.number})


async def _start(pictures: Pictures, wish: Wish, request: Request) -> Response:
    sent = await posted(request, MOST_ASKED)
    values = sent.get("values")
    if not isinstance(values, dict):
        raise BadRequest(400, "values is no object")
    return JSONResponse({"numbers": pictures.start(_numbers(sent), wish.with_values(values))})


async def _cancel(pictures: Pictures, wish: Wish, request: Request) -> Response:
    pictures.cancel(_numbers(await posted(request, MOST_ASKED)))
    return JSONResponse({})


async def _save(pictures: Pictures, wish: Wish, request: Request) -> Response:
    saved = await run_in_threadpool(pictures.save, _numbers(await posted(request, MOST_ASKED)))
    return JSONResponse({"saved": [str(path) for path in saved]})


async def _remove(pictures: Pictures, wish: Wish, request: Request) -> Response:
    await run_in_threadpool(pictures.remove, _numbers(await posted(request, MOST_ASKED)))
    return JSONResponse({})


def _numbers(sent: dict[str, Any]) -> list[int]:
    found = sent.get("numbers")
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise BadRequest(400, "numbers is no list of numbers")
    return found
