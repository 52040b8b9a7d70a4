"""Who may ask the server of the search page, under which names, and what a browser may do with its answers."""

import pytest

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")
from fastapi.testclient import TestClient

from contextcir.errors import InputError
from experiments.search.guard import HEADERS
from experiments.search.server import create_app, is_loopback, listen, running
from tests.search_page.asked import HERE, problem

TOKEN = "made-up-token-of-a-test"


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


@pytest.mark.parametrize(
    "token", ["", "short", "with space in it", "semi;colon;here", "line\nfeed-in-it", "é" * 10, "x" * 201]
)
def test_a_token_that_no_cookie_can_hold_is_refused(searcher, token):
    with pytest.raises(InputError, match="token"):
        create_app(searcher, token)


def test_a_token_in_an_address_leads_back_to_the_address_without_it(searcher):
    app = create_app(searcher, TOKEN, hosts=None)
    with TestClient(app, base_url="http://studio.example", follow_redirects=False) as client:
        for path, place in {
            "/docs": "/docs",
            "/a%0d%0aset-cookie:b": "/a%0D%0Aset-cookie%3Ab",
            "//e.example/": "/e.example/",
        }.items():
            answer = client.get(f"http://studio.example{path}?token={TOKEN}")
            assert (answer.status_code, answer.headers["location"]) == (303, place)
            client.cookies.clear()


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
