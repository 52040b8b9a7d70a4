"""The JSON interface of the search page: answers, limits, who is let in, and queries that are answered together."""

import asyncio
import http.client
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contextcir.errors import InputError
from experiments.search.asking import sees_a_square
from experiments.search.batching import Batcher, QueueFull
from experiments.search.catalogue import id_of, path_of
from experiments.search.guard import HEADERS
from experiments.search.limits import Limits
from tests.search_page.fake import FakeSearcher, drawn, gallery, jpeg, middle, whole

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")
from fastapi.testclient import TestClient

from experiments.search.server import create_app, is_loopback, listen, running

HERE = "http://127.0.0.1:7860"
TOKEN = "made-up-token-of-a-test"


@pytest.fixture
def searcher(tmp_path: Path) -> FakeSearcher:
    return FakeSearcher(tmp_path / "photos", gallery())


@pytest.fixture
def client(searcher: FakeSearcher) -> Iterator[TestClient]:
    with TestClient(create_app(searcher), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def upload(content: bytes, name: str = "photo.jpg") -> tuple[str, tuple[str, bytes, str]]:
    return "images", (name, content, "image/jpeg")


def problem(answer: Any, status: int) -> str:
    """Return the message of an error, after making sure that it is one line of JSON and nothing else."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"].startswith("application/json")
    told = answer.json()
    assert set(told) == {"error"} and "\n" not in told["error"] and len(told["error"]) <= 300
    return told["error"]


def test_an_image_and_a_text_find_what_the_text_says(client):
    answer = client.post("/api/search", files=[upload(jpeg(drawn("red")))], data={"text": "blue disc", "k": 4})
    found = answer.json()
    assert answer.status_code == 200
    assert [result["rank"] for result in found["results"]] == [1, 2, 3, 4]
    assert all("blue" in result["path"] for result in found["results"][:3])
    scores = [result["score"] for result in found["results"]]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[3]
    first = found["results"][0]
    assert (first["width"], first["height"], first["format"]) == (120, 90, "JPEG")
    picture = client.get(first["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(picture.content)).size == (60, 45)


def test_phrases_come_with_their_spans_and_their_attention(client):
    asked = {"text": "a blue disc beside the red ball", "maps": "true"}
    found = client.post("/api/search", files=[upload(jpeg(drawn("red")))], data=asked).json()
    assert [found["text"][p["start"] : p["end"]] for p in found["phrases"]] == ["a blue disc", "the red ball"]
    for number, phrase in enumerate(found["phrases"]):
        attention = phrase["attention"]
        assert (attention["rows"], attention["columns"]) == (3, 4)
        assert max(range(12), key=attention["values"].__getitem__) == number
        assert abs(sum(attention["values"]) - 1) < 1e-3
    without = client.post("/api/search", data={"text": "a blue disc"}).json()
    assert [phrase["attention"] for phrase in without["phrases"]] == [None]


def test_a_reference_of_the_index_is_no_answer_to_itself(client):
    for name in ("summer/red-1.jpg", id_of("summer/red-1.jpg")):
        found = client.post("/api/search", data={"references": name, "k": 5}).json()
        paths = [result["path"] for result in found["results"]]
        assert len(paths) == 5 and not any(path.endswith("summer/red-1.jpg") for path in paths)
        assert sum("red" in path for path in paths) == 2


def test_copies_are_folded_and_opened(client):
    asked = {"text": "red", "k": 10}
    folded = client.post("/api/search", data=asked).json()["results"]
    pile, *_ = [result for result in folded if result["copies"]]
    opened = client.post("/api/search", data=asked | {"fold": "false"}).json()["results"]
    assert {pile["path"], pile["copies"][0]["path"]} <= {result["path"] for result in opened}
    assert not any(result["copies"] for result in opened)


def test_what_is_not_wanted_is_left_out(client):
    red = [f"{folder}/red-{n}.jpg" for n, folder in enumerate(("winter/snow", "summer", "winter/snow"))]
    paths = [r["path"] for r in client.post("/api/search", data={"text": "red", "without": red}).json()["results"]]
    assert paths and not set(paths) & set(red)


def test_folders_dates_and_formats_restrict(client, searcher):
    about = client.get("/api/about").json()
    assert {f["folder"] for f in about["folders"]} >= {"winter", "winter/snow", "summer"}
    assert about["count"] == searcher.index.count() and about["formats"] == {"JPEG": about["count"]}
    found = client.post("/api/search", data={"text": "red", "folder": "winter"}).json()["results"]
    assert found and all(result["path"].startswith("winter/") for result in found)
    day = found[0]["taken"] or next(r["taken"] for r in found if r["taken"])
    found = client.post("/api/search", data={"text": "red", "since": day[:10], "until": day[:10]}).json()["results"]
    assert [result["taken"] for result in found] == [day]
    assert client.post("/api/search", data={"text": "red", "formats": "PNG"}).json()["results"] == []
    sample = client.get("/api/sample", params={"count": 5, "folder": "summer"}).json()
    assert len(sample) == 5 and all(photo["folder"] == "summer" for photo in sample)


def test_an_image_is_sent_upright_small_and_without_what_its_file_says(client, searcher):
    place = "summer/red-1.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home, 12 Some Street"
    drawn("red", (2400, 1200)).save(searcher.folder / place, "JPEG", exif=exif)
    answer = client.get(f"/api/image/{id_of(place)}")
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (800, 1600) and image.format == "JPEG" and not dict(image.getexif())
    assert b"Some Street" not in answer.content
    (searcher.folder / place).unlink()
    assert "has gone" in problem(client.get(f"/api/image/{id_of(place)}"), 404)
    (searcher.folder / place).symlink_to("/etc/passwd")
    problem(client.get(f"/api/image/{id_of(place)}"), 404)


HOSTILE = [
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "summer/../../secret.jpg",
    "a\0b",
    "%2e%2e%2fetc",
    "\udc80",
    "x" * 9000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_a_name_that_is_not_in_the_index_opens_nothing(name, client, searcher):
    (searcher.folder.parent / "secret.jpg").write_bytes(jpeg(drawn("red")))
    ids = [id_of(name), "..%2f..%2fetc%2fpasswd", "%2e%2e/secret.jpg", "!!!", ""]
    for kind in ("thumbnail", "image"):
        for typed in ids:
            problem(client.get(f"/api/{kind}/{typed}"), 404)
    if "\udc80" not in name:
        problem(client.post("/api/search", data={"references": name}), 404)
        problem(client.post("/api/export", data={"paths": name}), 404)


@given(st.text(st.characters(codec=None), max_size=50))
def test_the_name_of_an_image_in_an_address_leads_back_to_its_path(path):
    name = id_of(path)
    assert path_of(name) == path
    assert all(c.isascii() and (c.isalnum() or c in "-_") for c in name)


@given(st.text(max_size=30))
def test_what_is_no_name_is_no_path(text):
    path = path_of(text)
    assert path is None or id_of(path) == text


def test_bad_requests_get_one_line(client):
    def post(files=(), **data):
        return client.post("/api/search", files=list(files), data=data)

    assert "image, a text, or both" in problem(post(), 422) and "both" in problem(post(text="  "), 422)
    assert "'notes.jpg': damaged or no image" in problem(post([upload(b"no image at all", "notes.jpg")]), 400)
    problem(post([upload(jpeg(drawn("red"))[:400])]), 400)
    problem(post([upload(b"")]), 400)
    assert "1,000 characters, got 1,001" in problem(post(text="x" * 1001), 422)
    assert "at most 4 images, got 5" in problem(post([upload(jpeg(drawn("red")))] * 5), 422)
    for k in ("0", "201", "-1", "1.5", "many", "1" * 5000):
        assert problem(post(text="red", k=k), 422).startswith("k: ")
    for balance in ("nan", "inf", "-0.1", "1.01"):
        assert problem(post(text="red", balance=balance), 422).startswith("balance: ")
    for day in ("2026-13-01", "2026-02-30", "yesterday", "0000-00-00", "1e3", "9999-12-31T", "２０２６"):
        assert "expected a day" in problem(post(text="red", since=day), 422)
    assert post(text="red", since="2020", until="2099-12").status_code == 200
    assert "expected one of JPEG" in problem(post(text="red", formats="EXE"), 422)
    assert "refused" in problem(post(text="refused"), 422)
    assert "expected one of text, json" in problem(
        client.post("/api/export", data={"paths": "summer/red-1.jpg", "format": "exe"}), 422
    )
    problem(client.get("/api/nothing"), 404)
    problem(client.get("/api/search"), 405)
    broken = client.post(
        "/api/search", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    problem(broken, 422)
    unbounded = client.post("/api/search", content=b"x", headers={"content-type": "multipart/form-data"})
    problem(unbounded, 400)


def test_what_is_too_large_is_refused(searcher):
    limits = Limits(image_bytes=20_000)
    with TestClient(create_app(searcher, limits=limits), base_url=HERE) as client:
        assert "20,000" in problem(client.post("/api/search", files=[upload(b"x" * 20_001)]), 413)
        assert "1,080,000" in problem(client.post("/api/search", files=[upload(b"x" * 1_100_000)]), 413)

        def endless() -> Iterator[bytes]:  # without a length
            yield b"--x\r\nContent-Disposition: form-data; name=images; filename=a.jpg\r\n\r\n"
            for _ in range(2000):
                yield b"x" * 1000

        kind = {"content-type": "multipart/form-data; boundary=x"}
        problem(client.post("/api/search", content=endless(), headers=kind), 413)
        assert client.post("/api/search", data={"text": "red"}).status_code == 200


def test_an_image_of_too_many_pixels_is_refused(client):
    file = io.BytesIO()
    Image.new("1", (20_000, 6_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    answer = client.post("/api/search", files=[upload(file.getvalue(), "bomb.png")])
    assert "120,000,000" in problem(answer, 400) or "6,000" in problem(answer, 400)


def test_whether_a_model_sees_the_middle_of_an_image_is_found_out(client):
    assert sees_a_square(middle) and not sees_a_square(whole)
    assert client.get("/api/about").json()["crops"] is False


def test_an_export_lists_what_was_chosen(client):
    paths = ["summer/red-1.jpg", id_of("winter/snow/red-0.jpg")]
    answer = client.post("/api/export", data={"paths": paths})
    assert answer.text == "summer/red-1.jpg\nwinter/snow/red-0.jpg\n"
    assert "attachment" in answer.headers["content-disposition"]
    listed = client.post("/api/export", data={"paths": paths, "format": "json"}).json()
    assert [photo["path"] for photo in listed] == ["summer/red-1.jpg", "winter/snow/red-0.jpg"]


def test_names_that_no_text_can_hold_are_told_all_the_same(tmp_path):
    names = ["a\nb.jpg", "\udcff.jpg", '"><img src=x onerror=alert(1)>.jpg', "\u202egpj.exe.jpg"]
    searcher = FakeSearcher(tmp_path, {name: drawn("red") for name in names})
    with TestClient(create_app(searcher), base_url=HERE) as client:
        results = client.post("/api/search", data={"text": "red"}).json()["results"]
        assert {result["path"] for result in results} == set(names)
        for result in results:
            assert client.get(result["thumbnail"]).status_code == client.get(result["image"]).status_code == 200
            assert client.post("/api/search", data={"references": result["id"]}).status_code == 200
        ids = [result["id"] for result in results]
        assert len(client.post("/api/export", data={"paths": ids}).text.splitlines()) == len(names)
        assert len(client.post("/api/export", data={"paths": ids, "format": "json"}).json()) == len(names)


def test_only_names_of_this_machine_are_answered(searcher):
    with TestClient(create_app(searcher), base_url=HERE) as client:
        for host in ("127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"):
            assert client.get("/", headers={"host": host}).status_code == 200, host
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "",
            "evil.example:7860",
            "localhost@evil.example",
            "[",
            "127.0.0.2",
        ):
            problem(client.get("/", headers={"host": host}), 421)


def test_pages_of_other_sites_get_no_answer(client):
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        problem(client.post("/api/search", data={"text": "red"}, headers=headers), 403)
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    answer = client.post("/api/search", data={"text": "red"}, headers=own)
    assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("access-control")]
    problem(client.options("/api/search", headers={"origin": HERE, "access-control-request-method": "POST"}), 405)


def test_every_answer_restricts_the_browser(client):
    for path in ("/", "/docs", "/api/about", "/api/nothing", "/page/script.js"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_a_token_is_needed_and_set_as_a_cookie_once(searcher):
    app = create_app(searcher, TOKEN, hosts=None)
    with TestClient(app, base_url="http://studio.example:7860", follow_redirects=False) as client:
        for path in ("/", "/api/about", "/?token=wrong", "/page/script.js", "/openapi.json", "/?token="):
            problem(client.get(path), 401)
        for headers in (
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": TOKEN},
            {"cookie": "contextcir_token=é"},
        ):
            problem(client.get("/api/about", headers={k: v.encode() for k, v in headers.items()}), 401)
        assert client.get("/api/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        answer = client.get(f"//evil.example/?token={TOKEN}")
        assert not answer.headers.get("location", "").startswith("//")
        client.cookies.clear()
        answer = client.get(f"/?token={TOKEN}")
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert client.get("/api/about").status_code == 200  # by the cookie
    with pytest.raises(InputError, match="token"):
        create_app(searcher, None, hosts=None)


def test_a_server_for_others_makes_a_token_and_one_for_this_machine_none(searcher):
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("0.0.0.0")  # noqa: S104
    with running(searcher) as address:
        assert "token" not in address
    with running(searcher, host="0.0.0.0") as address:  # noqa: S104
        assert len(address.split("token=")[1]) >= 32


def test_a_taken_port_is_named(searcher):
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="port"):
        listen("127.0.0.1", taken.getsockname()[1])
    for port in (-1, 65536, True):
        with pytest.raises(InputError):
            listen("127.0.0.1", port)


def test_the_list_of_endpoints_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "<script" not in page and "//" not in page.replace("http://127.0.0.1:7860", "")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert all(word in page for word in ("references", "balance", "0 to 1", "1 to 200", "without"))


def test_clients_at_once_are_answered_in_fewer_calls_each_with_its_own_answer(searcher):
    searcher.seconds = 0.2
    colours = ["red", "green", "blue", "yellow"] * 4
    app = create_app(searcher, limits=Limits(gather=0.05))
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda c: client.post("/api/search", data={"text": c, "k": 1}).json(), colours))
    for colour, answer in zip(colours, answers, strict=True):
        assert colour in answer["results"][0]["path"]
    assert sum(searcher.calls) == 16 and len(searcher.calls) <= 5 and len(searcher.threads) == 1


def test_an_error_of_one_query_spoils_no_other(searcher):
    searcher.seconds = 0.1
    texts = ["red", "fault", "blue", "fault red", "green"]
    app = create_app(searcher, limits=Limits(gather=0.2))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client, ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda text: client.post("/api/search", data={"text": text}), texts))
        assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200]
        assert "Traceback" not in answers[1].text and "model fails" not in answers[1].text
        assert client.post("/api/search", data={"text": "red"}).status_code == 200
    assert max(searcher.calls) > 1  # they were together


def test_a_full_queue_turns_clients_away(searcher):
    searcher.seconds = 0.4
    app = create_app(searcher, limits=Limits(waiting=2, batch=1))
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/api/search", data={"text": "red"}), range(8)))
        states = [answer.status_code for answer in answers]
        assert set(states) == {200, 503} and states.count(200) >= 2
        turned = next(answer for answer in answers if answer.status_code == 503)
        assert "try again" in problem(turned, 503) and turned.headers["retry-after"] == "1"


def test_a_query_whose_client_has_gone_is_not_answered():
    asked: list[list[int]] = []
    busy = threading.Event()

    def answer(queries):
        asked.append(list(queries))
        busy.wait(5)
        return [10 * query for query in queries]

    async def run() -> list[int]:
        batcher = Batcher(answer, Limits(gather=0))
        await batcher.start()
        first = asyncio.create_task(batcher.ask(1))
        while not asked:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.ask(number)) for number in (2, 3, 4)]
        await asyncio.sleep(0.01)
        others[1].cancel()
        first.cancel()  # the model is at it
        busy.set()
        answers = await asyncio.gather(others[0], others[2])
        await batcher.stop()
        return answers

    assert asyncio.run(run()) == [20, 40]
    assert asked == [[1], [2, 4]]


def test_a_client_that_hangs_up_frees_its_place(searcher):
    searcher.seconds = 0.5
    with running(searcher, limits=Limits(batch=1)) as address:
        place = urlsplit(address)
        kind = {"content-type": "application/x-www-form-urlencoded"}
        connections = []
        for _ in range(6):
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
            connection.request("POST", "/api/search", b"text=red", kind)
            connections.append(connection)
            time.sleep(0.05)
        for connection in connections[1:]:
            connection.close()
        assert connections[0].getresponse().status == 200
        time.sleep(1.2)
        assert sum(searcher.calls) <= 3  # of six


def test_a_queue_tells_that_it_is_full():
    async def run() -> None:
        batcher = Batcher(list, Limits(waiting=1))
        first = asyncio.create_task(batcher.ask(1))  # nobody answers yet
        batcher._arrived = asyncio.Event()
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.ask(2)
        first.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["image_bytes", "images", "text", "count", "batch", "waiting", "side", "gather"])
def test_a_limit_that_can_not_be_meant_is_refused(name):
    for value in (float("nan"), float("inf"), -1, True, None, "5"):
        with pytest.raises(InputError, match=name):
            Limits(**{name: value})
