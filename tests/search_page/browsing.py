"""The search page in Chromium, as tests see it."""

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")

NEEDS = [pytest.mark.slow]


class Watched:
    """A page of a server, and all that must not happen on it: errors, dialogs, and requests to anywhere else."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.address = address
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.page.goto(address)
        self.page.wait_for_selector(".card, .empty:not([hidden])")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, f"blob:{self.address}")):
            self.wrong.append(f"request to {request.url}")

    def until(self, expression: str) -> None:
        """Wait until an expression is true; playwright's own way would evaluate a text, which the policy forbids."""
        for _ in range(1200):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"not within 30 s: {expression}")

    def settle(self) -> None:
        """Wait until no search is under way."""
        self.until("!document.body.classList.contains('busy')")

    def names(self) -> list[str]:
        """Return the names of the files of the results."""
        self.settle()
        return self.page.locator(".card:not([hidden]) .file-name").all_inner_texts()

    def ask(self, text: str) -> list[str]:
        """Type words, search, and return the names of the results."""
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")
        return self.names()

    def rounds(self) -> list[str]:
        """Return the steps of the search."""
        return self.page.locator("#rounds button span").all_inner_texts()
