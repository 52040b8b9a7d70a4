"""The search page in a browser: what a person does with a photo and words, and what hostile names of files do to it."""

import io
from pathlib import Path

import pytest
from PIL import Image

from experiments.search.limits import Limits
from experiments.search.server import running
from tests.search_page.browsing import NEEDS, Watched
from tests.search_page.fake import FakeSearcher, drawn, jpeg

pytestmark = NEEDS


def test_it_begins_with_photos_of_the_index(opened, searcher):
    seen = opened()
    assert len(seen.names()) == min(24, searcher.index.count())
    assert "20 photos" in seen.page.inner_text("#about") and "begin" in seen.page.inner_text("#status")


def test_a_photo_and_words_are_refined_twice_and_stepped_back(opened, photo):
    seen = opened()
    seen.page.set_input_files("#file", photo)
    seen.page.wait_for_selector("#reference.filled")
    assert seen.names()[0].startswith("red")
    first = seen.ask("a blue disc")
    assert first[0].startswith("blue") and seen.rounds() == ["Start", "a blue disc"]
    seen.page.locator(".pick").first.click()
    seen.settle()
    assert seen.page.input_value("#text") == "" and "blue" in seen.page.inner_text("#reference-name")
    second = seen.ask("the green disc")
    assert second[0].startswith("green")
    seen.page.locator(".pick").first.click()
    third = seen.ask("purple")
    assert third[0].startswith("purple")
    assert seen.rounds() == ["Start", "a blue disc", "the green disc", "purple"]
    seen.page.locator("#rounds button").nth(1).click()
    seen.until("document.getElementById('text').value === 'a blue disc'")
    assert seen.names() == first and seen.page.inner_text("#reference-name") == "mine.jpg"
    assert seen.page.get_attribute("#rounds li:nth-child(2) button", "aria-current") == "step"
    seen.page.go_forward()
    seen.until("document.getElementById('text').value === 'the green disc'")
    assert seen.names() == second
    assert seen.ask("yellow")[0].startswith("yellow")
    assert seen.rounds() == ["Start", "a blue disc", "the green disc", "yellow"]  # what came later is gone


def test_a_photo_is_dropped_or_pasted(opened, photo):
    seen = opened()
    content = list(photo.read_bytes())
    make = f"""() => {{ const data = new DataTransfer();
        data.items.add(new File([new Uint8Array({content})], 'dropped.jpg', {{type: 'image/jpeg'}})); return data; }}"""
    for kind in ("drop", "paste"):
        data = seen.page.evaluate_handle(make)
        event = {"drop": "DragEvent('drop', {dataTransfer: d", "paste": "ClipboardEvent('paste', {clipboardData: d"}[
            kind
        ]
        seen.page.evaluate(f"d => document.body.dispatchEvent(new {event}, bubbles: true, cancelable: true}}))", data)
        seen.until("document.getElementById('reference-name').textContent === 'dropped.jpg'")
        assert seen.names()[0].startswith("red")
        seen.page.locator(".other").click()
        seen.until("!document.querySelector('#reference.filled')")
        seen.settle()


def test_several_photos_are_searched_from_at_once(opened, tmp_path, searcher):
    seen = opened()
    for colour in ("red", "yellow"):
        (tmp_path / f"{colour}.jpg").write_bytes(jpeg(drawn(colour)))
    seen.page.set_input_files("#file", [tmp_path / "red.jpg", tmp_path / "yellow.jpg"])
    seen.page.wait_for_selector(".other img")
    assert {name.split("-")[0] for name in seen.names()[:6]} == {"red", "yellow"}
    seen.page.locator(".other").first.click()
    seen.until("document.querySelectorAll('.other img').length === 0")
    assert seen.names()[0].startswith("yellow")


def test_not_this_takes_a_photo_away_and_can_be_taken_back(opened):
    seen = opened()
    before = seen.ask("red")
    card = seen.page.locator(".card").nth(2)
    path = card.locator(".pick").get_attribute("title").splitlines()[0]
    card.hover()
    card.locator(".refuse").click()
    seen.page.wait_for_selector("#unwanted:not([hidden])")
    seen.settle()
    paths = [title.splitlines()[0] for title in seen.page.locator(".pick").evaluate_all("all => all.map(p => p.title)")]
    assert path not in paths and len(paths) == len(before) - 1
    seen.page.locator("#unwanted button").click()
    seen.page.wait_for_selector("#unwanted", state="hidden")
    assert seen.names() == before


def test_a_phrase_shows_its_attention_over_the_photo(opened, photo):
    seen = opened()
    seen.page.set_input_files("#file", photo)
    seen.ask("a blue disc beside the yellow ball")
    phrases = seen.page.locator("button.phrase")
    assert [text.rstrip("①②") for text in phrases.all_inner_texts()] == ["a blue disc", "the yellow ball"]
    brightest = """() => { const c = document.getElementById('overlay'); const d = c.getContext('2d')
        .getImageData(0, 0, c.width, c.height).data; let best = 0;
        for (let i = 0; i < d.length / 4; i++) if (d[4 * i + 3] > d[4 * best + 3]) best = i;
        return [c.width, c.height, best, c.hidden]; }"""
    colours = phrases.evaluate_all("all => all.map(p => getComputedStyle(p).borderBottomColor)")
    assert len(set(colours)) == 2
    for number in range(2):
        phrases.nth(number).hover()
        assert seen.page.evaluate(brightest) == [4, 3, number, False]
    seen.page.hover("#about")
    assert seen.page.locator("#overlay").is_hidden()
    phrases.nth(1).focus()
    assert seen.page.evaluate(brightest) == [4, 3, 1, False]
    image, overlay = (seen.page.locator(name).bounding_box() for name in ("#reference-image", "#overlay"))
    assert overlay["width"] / overlay["height"] == pytest.approx(4 / 3, abs=0.02)  # of the photo, not of its frame
    assert overlay["x"] >= image["x"] - 1 and overlay["y"] > image["y"] + 5


def test_a_model_without_attention_says_so_where_a_photo_is_given(opened, photo, searcher, monkeypatch):
    monkeypatch.setattr(searcher, "_map", lambda number, query: None)
    seen = opened()
    seen.ask("a blue disc")
    assert seen.page.locator("#reading .phrase").count() == 1
    assert seen.page.locator("#reading .hint").count() == 0  # nothing to look at, so nothing is missed
    seen.page.set_input_files("#file", photo)
    seen.ask("the yellow ball")
    assert "no attention" in seen.page.locator("#reading .hint").inner_text()
    assert seen.page.locator("button.phrase").count() == 0


def test_words_typed_while_a_photo_is_on_its_way_belong_to_it(opened, photo, searcher):
    seen = opened()
    searcher.seconds = 0.5
    seen.page.set_input_files("#file", photo)
    seen.page.wait_for_selector("#reference.filled")
    seen.ask("a blue disc")
    assert seen.page.inner_text("#reference-name") == "mine.jpg" and seen.rounds() == ["Start", "a blue disc"]
    seen.page.set_input_files("#file", photo)
    seen.page.fill("#text", "the green")
    seen.settle()
    assert seen.page.input_value("#text") == "the green"


def test_copies_open_below_their_badge(opened):
    seen = opened()
    folded = seen.ask("red")
    badge = seen.page.locator(".badge").first
    assert badge.inner_text() == "+1" and badge.get_attribute("aria-expanded") == "false"
    badge.click()
    assert len(seen.names()) == len(folded) + 1 and seen.page.locator(".copy").count() == 1
    badge.click()
    assert seen.names() == folded


def test_the_slider_hides_results_below_a_score(opened):
    seen = opened()
    everything = seen.ask("red")
    seen.page.locator("#cut-off").fill("0.9")
    left = seen.names()
    assert 0 < len(left) < len(everything) and all(name.startswith("red") for name in left)
    assert f"{len(left)} of {len(everything)} photos" in seen.page.inner_text("#status")
    seen.page.fill("#text", "blue")  # it stays for the next search
    seen.page.press("#text", "Enter")
    assert all(name.startswith("blue") for name in seen.names())


def test_filters_and_balance_change_the_results(opened, photo):
    seen = opened()
    seen.page.set_input_files("#file", photo)
    assert seen.ask("blue")[0].startswith("blue")
    seen.page.click("#filters summary")
    seen.page.select_option("#folder", "winter")
    titles = "all => all.map(p => p.title)"
    seen.until("document.getElementById('status').textContent.startsWith('9 ')")
    assert all(title.startswith("winter/") for title in seen.page.locator(".pick").evaluate_all(titles))
    seen.page.fill("#since", "2199-01-01")
    seen.page.wait_for_selector("#empty:not([hidden])")
    assert seen.page.inner_text("#empty p") == "No photo fits the filters."
    seen.page.click("#empty button")
    seen.page.wait_for_selector("#empty", state="hidden")
    assert len(seen.names()) > 9 and seen.rounds() == ["Start", "blue"]


def test_a_text_file_named_as_a_photo_is_refused_in_a_sentence(opened, photo, tmp_path):
    seen = opened()
    seen.page.set_input_files("#file", photo)
    before = seen.ask("blue")
    (tmp_path / "notes.jpg").write_text("no photo at all", encoding="utf-8")
    seen.page.set_input_files("#file", tmp_path / "notes.jpg")
    seen.page.wait_for_selector("#message:not([hidden])")
    assert "'notes.jpg': damaged or no image" in seen.page.inner_text("#message p")
    assert seen.names() == before and seen.page.inner_text("#reference-name") == "mine.jpg"
    assert [wrong for wrong in seen.wrong if "400" not in wrong] == []  # the browser's own line on the answer
    seen.wrong.clear()
    (tmp_path / "notes.txt").write_text("no photo at all", encoding="utf-8")
    seen.page.set_input_files("#file", tmp_path / "notes.txt")
    assert "notes.txt is no photo" in seen.page.inner_text("#message p")
    seen.page.click("#message button")
    assert seen.page.locator("#message").is_hidden() and seen.ask("green")[0].startswith("green")


def test_a_server_that_has_stopped_is_told_in_a_sentence(browser, searcher):
    with running(searcher) as address:
        seen = Watched(browser, address)
    seen.page.fill("#text", "red")
    seen.page.press("#text", "Enter")
    seen.page.wait_for_selector("#message:not([hidden])")
    assert "Is it still running?" in seen.page.inner_text("#message p")
    seen.context.close()


def test_two_tabs_have_searches_of_their_own(opened):
    one, other = opened(), opened()
    one.page.fill("#text", "red")
    other.page.fill("#text", "blue")
    one.page.press("#text", "Enter")
    other.page.press("#text", "Enter")
    assert one.names()[0].startswith("red") and other.names()[0].startswith("blue")
    one.page.locator(".pick").first.click()
    one.settle()
    assert other.rounds() == ["Start", "blue"] and other.page.input_value("#text") == "blue"


def test_all_of_it_is_done_with_keys(opened):
    seen = opened()
    press = seen.page.keyboard.press
    focused = "document.activeElement.closest('.card')?.querySelector('.file-name').textContent"
    seen.page.locator("body").press("/")
    assert seen.page.evaluate("document.activeElement.id") == "text"
    seen.page.keyboard.type("red")
    press("Enter")
    names = seen.names()
    press("ArrowDown")
    assert seen.page.evaluate(focused) == names[0]
    press("ArrowRight")
    press("ArrowRight")
    press("ArrowLeft")
    assert seen.page.evaluate(focused) == names[1]
    press("ArrowDown")
    below = seen.page.evaluate(focused)
    assert below != names[1]
    press("ArrowUp")
    assert seen.page.evaluate(focused) == names[1]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert seen.page.evaluate(outline) == "solid"
    press("s")
    assert "1 selected" in seen.page.inner_text("#selection")
    press("v")
    assert seen.page.locator("#viewer").is_visible()
    press("Escape")
    assert seen.page.locator("#viewer").is_hidden() and seen.rounds() == ["Start", "red"]
    press("x")
    seen.page.wait_for_selector("#unwanted:not([hidden])")
    assert len(seen.names()) == len(names) - 1
    assert seen.page.evaluate(focused) is not None  # one goes on among the results
    press("End")
    press("Enter")
    seen.until("document.getElementById('reference').classList.contains('filled')")
    seen.settle()
    assert seen.page.evaluate("document.activeElement.id") == "text" and len(seen.rounds()) == 4
    for left in ("red", "red", ""):
        press("Escape")
        seen.until(f"document.getElementById('text').value === '{left}'")
        seen.settle()
    assert seen.page.get_attribute("#rounds li:first-child button", "aria-current") == "step"


def test_everything_that_is_clicked_has_a_name(opened, photo):
    seen = opened()
    seen.page.set_input_files("#file", photo)
    seen.ask("a blue disc")
    unnamed = """() => [...document.querySelectorAll('button, input, select, summary, a')].filter(e =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title)).map(e => e.outerHTML)"""
    assert seen.page.evaluate(unnamed) == []
    assert seen.page.evaluate("[...document.images].filter(i => !i.hasAttribute('alt')).length") == 0
    tabs = seen.page.evaluate("document.querySelectorAll('.pick[tabindex=\"0\"]').length")
    assert tabs == 1


def test_a_selection_is_saved(opened):
    seen = opened()
    seen.ask("red")
    paths = []
    for number in (0, 3):
        card = seen.page.locator(".card").nth(number)
        card.hover()
        card.locator(".select").click()
        paths.append(card.locator(".pick").get_attribute("title").splitlines()[0])
    with seen.page.expect_download() as download:
        seen.page.click("[data-export=text]")
    assert Path(download.value.path()).read_text(encoding="utf-8").splitlines() == paths
    seen.page.click("[data-export=none]")
    assert seen.page.locator("#selection").is_hidden() and seen.page.locator("[aria-pressed=true]").count() == 0


@pytest.mark.parametrize("width", [320, 375])
def test_a_phone_scrolls_only_up_and_down(opened, photo, width):
    seen = opened(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True)
    inside = "document.documentElement.scrollWidth <= innerWidth"
    assert seen.page.evaluate(inside)
    seen.page.set_input_files("#file", photo)
    seen.ask("a blue disc beside " + "the yellow ball and " * 8)
    assert seen.page.evaluate(inside)
    for _ in range(3):
        seen.page.locator(".pick").first.tap()
        seen.ask("x" * 200)
    seen.page.locator("#filters summary").tap()
    seen.page.locator(".select").first.tap()
    assert seen.page.evaluate(inside)
    assert seen.page.locator(".tools").first.evaluate("e => getComputedStyle(e).opacity") == "1"


def test_dark_mode_and_less_motion_are_followed(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark", reduced_motion="reduce")
    assert light.page.evaluate(ground) != dark.page.evaluate(ground)
    assert dark.page.locator(".pick img").first.evaluate("e => getComputedStyle(e).transitionProperty") == "none"


def test_an_index_without_photos_says_so(browser, tmp_path):
    searcher = FakeSearcher(tmp_path, {"a.jpg": drawn("red")})
    searcher.index.delete(["a.jpg"])
    with running(searcher, limits=Limits()) as address:
        seen = Watched(browser, address)
        assert seen.page.inner_text("#empty p") == "The index holds no photos yet."
        seen.context.close()
    assert seen.wrong == []


def test_a_photo_on_its_side_is_shown_upright(opened, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    drawn("red", (400, 200)).save(file, "JPEG", exif=exif)
    (tmp_path / "side.jpg").write_bytes(file.getvalue())
    seen = opened()
    seen.page.set_input_files("#file", tmp_path / "side.jpg")
    seen.until("document.getElementById('reference-image').naturalHeight === 400")
    assert seen.names()[0].startswith("red")
