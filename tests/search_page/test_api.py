"""The JSON interface of the search page: answers, limits, and bad requests."""

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contextcir.errors import InputError
from experiments.search.asking import sees_a_square
from experiments.search.catalogue import id_of, path_of
from experiments.search.limits import Limits
from tests.search_page.asked import HERE, problem, upload
from tests.search_page.fake import FakeSearcher, drawn, jpeg, middle, whole

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")
from fastapi.testclient import TestClient

from experiments.search.server import create_app


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


def test_the_list_of_endpoints_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "<script" not in page and "//" not in page.replace("http://127.0.0.1:7860", "")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert all(word in page for word in ("references", "balance", "0 to 1", "1 to 200", "without"))


@pytest.mark.parametrize("name", ["image_bytes", "images", "text", "count", "batch", "waiting", "side", "gather"])
def test_a_limit_that_can_not_be_meant_is_refused(name):
    for value in (float("nan"), float("inf"), -1, True, None, "5"):
        with pytest.raises(InputError, match=name):
            Limits(**{name: value})
