"""The files of a page: nothing else of a package is served."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def page_routes(package: str, *names: str) -> list[Route]:
    """page.html of the package's folder `page` as /, and the named files beside it."""
    found = {"/": "page.html", **{f"/{name}": name for name in names}}
    routes = [Route(at, partial(_file, package, name), methods=["GET"])
              for at, name in found.items()]  # fmt: skip
    return [*routes, Route("/favicon.ico", _nothing, methods=["GET"])]  # every browser asks


async def _file(package: str, name: str, request: Request) -> Response:
    data = files(package).joinpath("page", name).read_bytes()
    kind = f"{_KINDS[PurePath(name).suffix]}; charset=utf-8"
    return Response(data, headers={"Content-Type": kind})


async def _nothing(request: Request) -> Response:
    return Response(status_code=204)
