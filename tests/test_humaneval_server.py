"""The server over HTTP: refusals, headers, fifty subjects at once, SIGKILL."""

from __future__ import annotations

import asyncio
import http.client
import random
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("scipy")

import uvicorn
import uvicorn.server
from humaneval_study import Client, make_study, serving
from starlette.testclient import TestClient

from upscale import humaneval
from upscale.errors import InputError, UsageError
from upscale.humaneval.server import application, serve
from upscale.humaneval.store import open_study
from upscale.web.guard import MOST_BYTES
from upscale.web.listener import _UVICORN, _Prompt, door

pytestmark = pytest.mark.packaged


def told(study: Path, sql: str) -> list[tuple]:
    db = sqlite3.connect(study / "study.db")
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("served") / "study", subjects=100)
    with serving(study) as (link, _):
        yield study, link


@pytest.fixture
def client(served):
    made = Client(served[1])
    made.go("enrol")
    return made


def test_headers_of_every_answer(served):
    fresh = Client(served[1])
    for path, status in [("/", 200), ("/page.js", 200), ("/page.css", 200), ("/nothing", 404),
                         ("/picture/x", 401)]:  # fmt: skip
        found, headers, _ = fresh.request("GET", path)
        assert found == status, path
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert not {"Server", "ETag", "Last-Modified"} & set(headers)


def test_the_page_asks_for_nothing_outside():
    folder = Path(humaneval.__file__).parent / "page"  # of the wheel, if that is tested
    for file in folder.iterdir():
        text = file.read_text("utf-8")
        assert "//" not in text.replace("// ", "").replace("//\n", ""), file
        assert "style=" not in text and "onclick=" not in text.replace(" onclick =", "")
    html = (folder / "page.html").read_text()
    assert html.count("<script") == 1 and '<script type="module" src="/page.js">' in html


def test_the_consent_has_its_paragraphs(tmp_path):
    store = open_study(make_study(tmp_path / "study", consent="Dear\nsubject,\n \n\nask us."))
    page = TestClient(application(store, tmp_path), base_url="http://localhost")
    told = page.post("/api/state", json={}).json()
    assert told["consent"] == ["Dear\nsubject,", "ask us."]
    store.close()


def test_cookies_are_out_of_reach(served):
    fresh = Client(served[1])
    _, headers, _ = fresh.request("POST", "/api/enrol", b"{}", Content_Type="application/json")
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=strict" in headers["Set-Cookie"]
    assert fresh.request("POST", "/api/enrol", b"{}", Content_Type="application/json")[0] == 200
    assert (
        "Set-Cookie"
        not in fresh.request("POST", "/api/enrol", b"{}", Content_Type="application/json")[1]
    ), "a second enrolment of one who is not through"


def test_pictures_tell_nothing(client, served):
    trial = client.state["trial"]
    for picture in trial["pictures"]:
        status, headers, data = client.request("GET", picture["url"])
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert data.startswith(b"\x89PNG")
        assert b"tEXt" not in data and b"eXIf" not in data and b"tIME" not in data
    other = Client(served[1])
    other.go("enrol")
    assert other.request("GET", trial["pictures"][0]["url"])[0] == 404
    assert Client(served[1]).request("GET", trial["pictures"][0]["url"])[0] == 401


def test_refusals_over_http(client, served):
    study, link = served
    before = len(told(study, "SELECT 1 FROM refused"))
    trial = client.state["trial"]["id"]
    other = Client(link)
    other.go("enrol")
    json_type = {"Content_Type": "application/json"}
    raw = [
        # (method, path, body, headers), status
        (("POST", "/api/answer", b"x" * (MOST_BYTES + 1), json_type), 413),
        (("POST", "/api/answer", b"x" * 10_000_000, json_type), 413),
        (("POST", "/api/answer", b"not json", json_type), 400),
        (("POST", "/api/answer", b"[1]", json_type), 400),
        (("POST", "/api/answer", b"[" * 4000, json_type), 400),
        (("POST", "/api/answer", b"\xff\xfe", json_type), 400),
        (("POST", "/api/answer", b"{}", {}), 415),
        (("POST", "/api/answer", b"{}", {"Content_Type": "text/plain"}), 415),
        (("POST", "/api/answer", b"{}", {**json_type, "Sec_Fetch_Site": "cross-site"}), 403),
        (("POST", "/api/answer", b"{}", {**json_type, "Origin": "http://evil.example"}), 403),
        (("POST", "/api/answer", b"{}", json_type), 400),
        (("GET", "/api/answer", None, {}), 405),
        (("DELETE", "/", None, {}), 405),
        (("GET", "/../study.db", None, {}), 404),
        (("GET", "/picture/../../study.db", None, {}), 404),
        (("GET", "/picture/%2e%2e%2f%2e%2e%2fstudy.db", None, {}), 404),
        (("GET", "/picture/..%5cstudy.db", None, {}), 404),
        (("GET", "/study.db", None, {}), 404),
        (("GET", "/page.html", None, {}), 404),
        (("GET", "/pictures/", None, {}), 404),
        (("GET", "//etc/passwd", None, {}), 404),
        (("GET", "/", None, {"Host": "evil.example"}), 400),
        (("GET", "/", None, {"Host": ""}), 400),
    ]
    for (method, path, body, headers), status in raw:
        try:
            found, _, data = client.request(method, path, body, **headers)
        except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            assert status == 413
            continue
        assert found == status, (method, path, found, data[:100])
        assert b"SQLite" not in data and b"root:" not in data
    posts = [
        ("answer", {"trial": trial, "side": "left"}, 403, "unserved"),
        ("answer", {"trial": other.state["trial"]["id"], "side": "left"}, 403, "unserved"),
        ("begin", {"trial": other.state["trial"]["id"]}, 403, "unserved"),
        ("begin", {"trial": 7}, 400, "form"),
        ("begin", {"trial": "\ud800"}, 400, "form"),
        ("shown", {"trial": trial, "shown_ms": 10**400, "frame_ms": 1}, 400, "form"),
        ("shown", {"trial": trial, "shown_ms": 1, "frame_ms": 1, "zoom": 0.5}, 400, "form"),
        ("begin", {"trial": trial, "tab": "another"}, 409, "tab"),
        ("begin", {"trial": trial, "tab": None}, 400, "form"),
    ]
    for name, body, status, code in posts:
        found, answer = client.post(name, **body)
        assert (found, answer["code"]) == (status, code), (name, body)
    client.see()
    client.answer("left")
    repeated = client.post("answer", trial=trial, side="right")
    assert (repeated[0], repeated[1]["code"]) == (409, "answered")
    nobody = Client(link)
    nobody.state = client.state
    assert nobody.post("answer", trial=trial, side="left")[0] == 401
    nobody.cookies = dict.fromkeys(client.cookies, "guess")
    assert nobody.post("answer", trial=trial, side="left")[0] == 401
    kept = told(study, "SELECT what FROM refused")[before:]
    assert len(kept) >= len(raw) + len(posts)
    everything = "\n".join(what for (what,) in kept)
    for part in ("413 form", "study.db", "400 host 'evil.example'", "409 answered", "401 nobody",
                 "403 unserved", "405 GET"):  # fmt: skip
        assert part in everything
    assert "127.0.0.1" not in everything
    assert told(study, "SELECT side FROM answer WHERE subject ="
                f" {int(client.state['subject'][1:]) - 1}") == [("left",)]  # fmt: skip


def test_another_person_on_the_same_device(served):
    client = Client(served[1])
    client.go("enrol")
    first = client.state["subject"]
    while client.state["phase"] == "trial":
        client.see()
        client.answer("left")
    assert client.go("state")["phase"] == "done"
    client.go("enrol")
    assert client.state["subject"] != first and client.state["done"] == 0


def test_access_by_the_link_alone(tmp_path):
    study = make_study(tmp_path / "study")
    with serving(study, "--tunnel", "http://lab.example") as (link, process):
        assert link.startswith("http://lab.example/?access=")
        port = _port_of(process.pid)
        client = Client(f"http://127.0.0.1:{port}")
        host = {"Host": "lab.example"}
        for path in ("/", "/page.js", "/?access=wrong", "/api/state", "/?access="):
            assert client.request("GET", path, **host)[0] == 403
        status, headers, _ = client.request("GET", link.partition("example")[2], **host)
        assert (status, headers["Location"]) == (303, "/")
        assert client.request("GET", "/", **host)[0] == 200
        assert client.request("GET", "/", Host="other.example")[0] == 400
        client.cookies = dict.fromkeys(client.cookies, "wrong")
        assert client.request("GET", "/", **host)[0] == 403
    assert len(told(study, "SELECT 1 FROM refused WHERE what LIKE '403 no access%'")) == 6


@pytest.mark.parametrize(
    ("host", "tunnel", "name"),
    [
        ("127.0.0.1", None, "localhost"),
        ("127.0.0.2", None, "127.0.0.2"),
        ("::1", None, "[::1]"),
        ("localhost", "https://Lab.example:8443/", "lab.example"),
        ("127.0.0.1", "http://[fd00::1]:80", "[fd00::1]"),
    ],
)
def test_a_server_answers_to_the_names_in_its_link(host, tunnel, name):
    assert name in door(host, tunnel, None).hosts


@pytest.mark.parametrize(
    ("tunnel", "why"),
    [
        ("ftp://lab.example", "is no address"),
        ("https://[lab", "is no address"),
        ("https://lab.example:port", "is no address"),
        (
            "https://lab.example/study/",
            r"at the top of an address only; write https://lab.example$",
        ),
        ("https://lab.example?a=b", "at the top of an address only"),
    ],
)
def test_a_tunnel_in_which_the_page_cannot_work_is_refused(tunnel, why):
    with pytest.raises(UsageError, match=why):
        door("127.0.0.1", tunnel, None)


def _port_of(pid: int) -> int:
    """The port a process listens at."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(link.readlink().name)
        except OSError:
            continue
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    pytest.skip("no /proc to find the port in")


def test_the_open_address_needs_the_token(tmp_path):
    with serving(make_study(tmp_path / "study"), "--host", "0.0.0.0") as (link, _):
        assert "/?access=" in link
        client = Client(link)
        client.host = "127.0.0.1"
        assert client.request("GET", "/")[0] == 403


def take_part(link: str, kept: dict, failures: list, stop: threading.Event | None = None) -> None:
    """A subject from begin to end; `kept`: trial id -> side, of what the server confirmed."""
    try:
        client = Client(link)
        client.go("enrol")
        rng = random.Random(client.state["subject"])
        while client.state["phase"] == "trial" and not (stop and stop.is_set()):
            client.see()
            side, trial = rng.choice(["left", "right"]), client.state["trial"]["id"]
            number = (client.state["subject"], client.state["done"])
            client.answer(side)
            kept[number] = side
            assert client.post("answer", trial=trial, side="left")[0] == 409
    except (OSError, EOFError, http.client.IncompleteRead) as error:  # killed in mid-answer
        if stop is None:
            failures.append(repr(error))
    except BaseException as error:
        failures.append(repr(error))


def stored(study: Path) -> dict:
    rows = told(study, "SELECT subject, position, side FROM answer")
    return {(f"S{subject + 1:03d}", position): side for subject, position, side in rows}


@pytest.mark.slow
def test_fifty_at_once(tmp_path):
    study = make_study(tmp_path / "study", subjects=50)
    kept, failures = {}, []
    with serving(study) as (link, _):
        threads = [
            threading.Thread(target=take_part, args=(link, kept, failures)) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    assert failures == []
    assert len(kept) == 50 * 6
    assert stored(study) == kept
    assert told(study, "SELECT count(*), count(finished) FROM subject") == [(50, 50)]
    with serving(study) as (link, _):
        assert Client(link).go("state")["phase"] == "full"


def test_a_killed_server_loses_nothing_that_it_confirmed(tmp_path):
    study = make_study(tmp_path / "study", subjects=12)
    kept, failures, stop = {}, [], threading.Event()
    with serving(study) as (link, process):
        threads = [
            threading.Thread(target=take_part, args=(link, kept, failures, stop)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        while len(kept) < 12 and any(thread.is_alive() for thread in threads):
            threading.Event().wait(0.01)
        stop.set()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        for thread in threads:
            thread.join(120)
    assert failures == []
    found = stored(study)
    assert 12 <= len(kept) < 48
    assert {number: found.get(number) for number in kept} == kept
    assert len(found) <= len(kept) + 8  # in flight: at most one for each subject
    with serving(study) as (link, _):  # and it goes on
        client = Client(link)
        client.go("enrol")
        client.see()
        client.answer("left")
    assert len(stored(study)) == len(found) + 1


def test_two_tabs_over_http(served):
    first = Client(served[1])
    first.go("enrol")
    second = Client(served[1])
    second.cookies = first.cookies
    second.go("state")
    assert second.state["subject"] == first.state["subject"]
    trial = first.state["trial"]["id"]
    assert first.post("begin", trial=trial)[1]["code"] == "tab"
    second.see()
    second.answer("left")
    assert first.post("answer", trial=trial, side="left")[1]["code"] == "tab"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT", b"HTTP/1.1 200"),
        (b"POST /api/state HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
         b"Content-Length: 90\r\n\r\n{", b"HTTP/1.1 408"),
    ],
)  # fmt: skip
def test_half_a_request_is_not_waited_for(tmp_path, monkeypatch, sent, answer):
    monkeypatch.setattr("upscale.web.guard.MOST_SECONDS", 0.15)
    monkeypatch.setattr("upscale.web.listener.MOST_SECONDS", 0.15)
    store, how = open_study(make_study(tmp_path / "study")), {**_UVICORN, "timeout_keep_alive": 0.2}
    config = uvicorn.Config(application(store, tmp_path / "study"), http=_Prompt, **how)
    config.load()

    async def asked() -> bytes:
        made = lambda: _Prompt(config, uvicorn.server.ServerState(), {})  # noqa: E731
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        whole = await asyncio.wait_for(reader.read(), 5)  # to the end: it is closed
        writer.close()
        server.close()
        await writer.wait_closed()
        return whole

    assert asyncio.run(asked())[: len(answer) or None] == answer
    store.close()


def test_an_address_of_a_network_holds_few_places(tmp_path):
    study = make_study(tmp_path / "study", subjects=10)
    store = open_study(study)
    with TestClient(application(store, study, hosts=None, most=2)) as browser:

        def enrol() -> int:
            browser.cookies.clear()
            return browser.post("/api/enrol", json={}).status_code

        assert [enrol() for _ in range(3)] == [200, 200, 429]
        store.db.execute("UPDATE trial SET views = 1 WHERE subject = 0 AND position = 0")
        assert [enrol() for _ in range(2)] == [200, 429]
        told = browser.post("/api/enrol", json={}).json()
        assert told["code"] == "places"  # the page takes "full" for the end of the study
        assert told["error"].endswith("try again in some minutes")
    assert store.free(3600) == 0  # they came just now
    assert store.free(0) == 2 and store.counts()["enrolled"] == 1
    store.close()


def test_pictures_that_are_not_there(tmp_path):
    """A study without them is not served, and one that loses them tells it in a line."""
    study = make_study(tmp_path / "study")
    store, lines = open_study(study), []
    page = TestClient(application(store, study, say=lines.append), base_url="http://localhost")
    url = page.post("/api/enrol", json={}).json()["trial"]["pictures"][0]["url"]
    (study / "pictures").rename(tmp_path / "elsewhere")
    assert page.get(url).status_code == 503
    assert "a picture cannot be read" in lines[-1] and "\n" not in lines[-1]
    with pytest.raises(InputError, match=r"lacks 40 pictures of the study; copy"):
        serve(store, study, "localhost", 0, say=lines.append, ready=lines.append)
