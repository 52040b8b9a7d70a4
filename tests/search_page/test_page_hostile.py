"""The search page in a browser, against names of files, texts and pages that mean it harm."""

import pytest

from experiments.search.server import running
from tests.search_page.browsing import NEEDS, Watched
from tests.search_page.fake import COLOURS, FakeSearcher, drawn, jpeg

pytestmark = NEEDS

HOSTILE = (
    '<img src=x onerror="document.title=1">.jpg',
    "'\"><script>alert(1)<\u2215script>.jpg",
    "two\nlines.jpg",
    "\u202egpj.live\u202c.jpg",
    "javascript:alert(1).jpg",
    "%3Cb%3E&amp;.jpg",
    "${alert(1)}{{7*7}}.jpg",
    "# ? & = +.jpg",
    "n" * 240 + ".jpg",
    "folder <b>bold<\u2215b>/inside.jpg",
    "\u0435\u0301\u0301\u0301 \U0001f4a9 \u6f22.jpg",
)


def test_hostile_names_of_files_stay_names(browser, tmp_path):
    pictures = {
        name: drawn(colour, shift=n) for n, (name, colour) in enumerate(zip(HOSTILE, [*COLOURS] * 2, strict=False))
    }
    searcher = FakeSearcher(tmp_path / "photos", pictures)
    (tmp_path / 'x"><img src=x onerror=alert(1)>.jpg').write_bytes(jpeg(drawn("red")))
    with running(searcher) as address:
        seen = Watched(browser, address, viewport={"width": 375, "height": 700})
        kinds = "() => [...new Set([...document.querySelectorAll('body *')].map(e => e.tagName.toLowerCase()))].sort()"
        before = set(seen.page.evaluate(kinds))
        assert sorted(
            seen.page.locator(".pick").evaluate_all("all => all.map(p => p.title.split('\\n2')[0])")
        ) == sorted(HOSTILE)
        for number in range(len(HOSTILE)):
            seen.page.locator(".pick").nth(number).click()
            seen.settle()
            seen.ask("red")
            assert seen.page.locator("#message").is_hidden(), seen.page.inner_text("#message")
            assert seen.page.locator(".card").count() == len(HOSTILE) - 1
            assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            card = seen.page.locator(".card").first
            card.hover()
            card.locator(".refuse").click()
            seen.settle()
            seen.page.locator(".card").first.hover()
            seen.page.locator(".card").first.locator(".view").click()
            seen.until("document.querySelector('#viewer img').naturalWidth > 0")
            seen.page.locator("#viewer .quiet").click()
            seen.page.locator("#rounds button").first.click()
            seen.until("document.getElementById('reference').classList.contains('filled') === false")
        seen.page.set_input_files("#file", tmp_path / 'x"><img src=x onerror=alert(1)>.jpg')
        seen.ask('<img src=x onerror=alert(1)> red <b>bold</b> & "quotes"')
        assert "<b>bold</b>" in seen.page.inner_text("#reading")
        added = set(seen.page.evaluate(kinds)) - before
        assert added <= {"sup", "mark", "small", "button", "img", "li", "canvas"}, added
        assert (
            seen.page.title() == "Search by photo and words" and seen.page.locator("b, script:not([src])").count() == 0
        )
        assert (
            seen.page.locator("img").evaluate_all("all => all.filter(i => i.getAttribute('src') === 'x').length") == 0
        )
        seen.context.close()
    assert seen.wrong == []


def test_the_policy_stops_scripts_and_requests_that_the_page_does_not_make(browser, searcher):
    from playwright import sync_api

    with running(searcher) as address:
        seen = Watched(browser, address)
        tries = {
            "inner": "() => { document.body.innerHTML = '<b>x</b>'; }",
            "handler": "() => document.body.setAttribute('onclick', 'window.ran = 1')",
            "fetch": "() => fetch('http://127.0.0.1:1/elsewhere')",
        }
        for code in tries.values():
            with pytest.raises(sync_api.Error):
                seen.page.evaluate(code)
        seen.context.close()


def test_a_page_that_needs_a_token_opens_with_its_address(browser, searcher):
    with running(searcher, token="made-up-token") as address:
        seen = Watched(browser, address.split("?")[0] + "?token=made-up-token")
        seen.address = address.split("?")[0]
        assert "token" not in seen.page.url and len(seen.names()) > 0
        assert seen.ask("red")[0].startswith("red")
        stranger = browser.new_context().new_page()
        assert stranger.goto(seen.address).status == 401
        stranger.context.close()
        seen.context.close()
