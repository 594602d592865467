"""The chat page in headless Chromium, and a listener that no page must ever reach.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

# Runs in every document before its own scripts: what it would report, kept for the test.
WATCH = """
window.seen = [];
addEventListener("securitypolicyviolation", (event) =>
  window.seen.push(`policy: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
addEventListener("error", (event) => window.seen.push(`error: ${event.message}`), true);
addEventListener("unhandledrejection", (event) => window.seen.push(`rejected: ${event.reason}`));
"""
WAIT_SECONDS = 90.0


class Canary:
    """Counts whatever asks it for anything."""

    def __init__(self) -> None:
        canary = self
        self.hits: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                canary.hits.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_OPTIONS = do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def chromium(program: str, driver: str, profile: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless",
        "--no-sandbox",  # CI runs as root
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # Names lead nowhere: a page that asks for one shows up in the log and harms nobody.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1100,800",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


class ChatPage:
    """What a person does with the page, and what they see."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.url = url.rstrip("/") + "/"

    def open(self) -> None:
        self.browser.get(self.url)
        self.wait(lambda: self.field.is_enabled() and self.find(".gauge"))

    def reload(self) -> None:
        self.browser.refresh()
        self.wait(lambda: self.field.is_enabled() and self.find(".gauge"))

    def new_tab(self) -> None:
        """A tab of its own has no conversation stored."""
        self.browser.switch_to.new_window("tab")
        self.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})

    def close(self) -> None:
        """Closes all tabs but the first, which is empty, and forgets what they logged."""
        first, *others = self.browser.window_handles
        for handle in others:
            self.browser.switch_to.window(handle)
            self.browser.close()
        self.browser.switch_to.window(first)
        self.console()
        self.requests()

    # --- seeing -----------------------------------------------------------------------------

    def wait(self, condition: Any, what: str = "") -> Any:
        from selenium.common.exceptions import (
            NoSuchElementException,
            StaleElementReferenceException,
        )

        ignored = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.browser, WAIT_SECONDS, 0.05, ignored_exceptions=ignored)
        return waiting.until(lambda _: condition(), what)

    def find(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    @property
    def field(self) -> WebElement:
        return self.browser.find_element(By.ID, "question")

    @property
    def questions(self) -> list[str]:
        return [element.text for element in self.find(".question .bubble")]

    @property
    def answers(self) -> list[str]:
        return [
            "\n".join(part.text for part in article.find_elements(By.CSS_SELECTOR, ".markdown"))
            for article in self.find("article.answer")
        ]

    @property
    def states(self) -> list[str | None]:
        return [article.get_attribute("data-state") for article in self.find("article.answer")]

    def wait_for_state(self, *states: str) -> None:
        self.wait(
            lambda: self.states and self.states[-1] in states,
            f"the answer is in none of the states {states}",
        )

    @property
    def seen(self) -> list[str]:
        """Violations of the policy and errors of scripts, in this document."""
        found = self.script("return window.seen")
        assert isinstance(found, list)
        return found

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")
        ]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def script(self, code: str, *arguments: object) -> Any:
        return self.browser.execute_script(code, *arguments)

    # --- doing ------------------------------------------------------------------------------

    def type(self, *keys: str) -> None:
        self.field.send_keys(*keys)

    def press(self, key: str) -> None:
        ActionChains(self.browser).send_keys(key).perform()

    def ask(self, question: str) -> None:
        self.type(question, Keys.ENTER)

    def click(self, name: str) -> None:
        """Clicks the button with this name, as a screen reader says it."""
        for button in self.find("button"):
            if name in (button.get_attribute("aria-label"), button.text.strip()):
                button.click()
                return
        raise AssertionError(f"no button {name!r}")
