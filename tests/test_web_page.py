"""The page of a packed executable, used as a person uses it, in headless Chromium.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from server_process import Server

if TYPE_CHECKING:
    from browser_page import Canary, ChatPage

pytestmark = [pytest.mark.chromium]

HOSTILE = Path(__file__).resolve().parents[1] / "templates" / "web" / "test" / "hostile.json"
LONG = "Write a very long story about a river, with many chapters."
ENTER, ESCAPE = "\ue007", "\ue00c"  # WebDriver's key codes


@pytest.fixture(scope="module")
def server(packed_smollm2: Path) -> Iterator[Server]:
    with Server(packed_smollm2, "-n", "400", "-c", "2048", "--temp", "0") as running:
        yield running


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    from browser_page import Canary

    listener = Canary()
    with urllib.request.urlopen(f"{listener.url}/control") as reply:
        assert reply.status == 200
    assert listener.hits == ["/control"]  # it does notice
    listener.hits.clear()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def browser(tool: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium")
    assert selenium
    from browser_page import chromium

    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not installed")
    with chromium(tool("chromium"), driver, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[ChatPage]:
    """The page in a tab of its own. Afterwards: nothing was reported, nobody else was asked."""
    from browser_page import ChatPage

    chat = ChatPage(browser, server.url)
    chat.console()
    chat.requests()
    chat.new_tab()
    try:
        chat.open()
        assert f"{chat.url}api/info" in chat.requests()
        yield chat
        check_behaviour(chat)
    finally:
        chat.close()


def check_behaviour(chat: ChatPage) -> None:
    assert chat.seen == []
    assert chat.console() == []
    asked = chat.requests()
    assert [url for url in asked if not url.startswith((chat.url, "data:image/"))] == []


@contextmanager
def own_server(browser: Any, packed: Path, *arguments: str) -> Iterator[tuple[Server, ChatPage]]:
    """A server and a tab for one test, which may leave an unusual log."""
    from browser_page import ChatPage

    with Server(packed, *arguments) as running:
        page = ChatPage(browser, running.url)
        page.new_tab()
        try:
            yield running, page
        finally:
            page.close()


def test_a_question_is_answered_as_a_stream(page: ChatPage) -> None:
    page.script(
        """window.lengths = [];
        new MutationObserver(() => {
          const text = document.querySelector("article.answer .markdown")?.textContent ?? "";
          if (text.length !== window.lengths.at(-1)) window.lengths.push(text.length);
        }).observe(document.body, {subtree: true, childList: true, characterData: true});"""
    )
    page.ask("What is the capital of France? Answer in one sentence.")
    page.wait_for_state("done")
    assert page.questions == ["What is the capital of France? Answer in one sentence."]
    assert "Paris" in page.answers[0]
    page.script("window.lengths = []")
    page.click("New chat")
    page.ask(LONG)
    page.wait(lambda: len(page.answers[-1]) > 200)
    page.press(ESCAPE)
    page.wait_for_state("stopped")
    lengths = page.script("return window.lengths")
    assert len([n for n in lengths if n > 0]) >= 5, lengths
    assert lengths == sorted(lengths)
    # Speed and context in use are said.
    statistics = page.find(".statistics")[0].text
    assert re.search(r"\d+ tokens · \d+\.\d tokens/s", statistics), statistics
    used = re.fullmatch(r"([\d,]+) of 2,048 tokens", page.find(".gauge .numbers")[0].text)
    assert used
    assert int(used[1].replace(",", "")) > 20
    assert page.field.get_attribute("value") == ""


def test_an_answer_is_stopped_and_made_again(page: ChatPage, server: Server) -> None:
    for stop in (lambda: page.press(ESCAPE), lambda: page.click("Stop")):
        page.ask(LONG)
        page.wait(lambda: page.answers and len(page.answers[-1]) > 20)
        assert page.find("[aria-label=Stop]")
        assert not page.find("[aria-label=Send]")
        stop()
        page.wait_for_state("stopped")
        kept = page.answers[-1]
        assert len(kept) > 20
        assert page.find("[aria-label=Send]")
    assert len(page.questions) == 2
    page.click("Regenerate")
    page.wait_for_state("writing")
    page.press(ESCAPE)
    page.wait_for_state("stopped")
    assert len(page.questions) == len(page.answers) == 2
    # The server has let go of them: the next answer does not wait for their rest.
    page.click("New chat")
    page.wait(lambda: page.questions == [])
    page.ask("Say hi.")
    page.wait_for_state("writing", "done")


def test_keys_and_what_is_sent(page: ChatPage) -> None:
    bodies = "return window.bodies.map((body) => JSON.parse(body).messages)"
    page.script(
        """window.bodies = [];
        const fetch = window.fetch;
        window.fetch = (path, init) => {
          if (String(path).includes("chat")) window.bodies.push(init.body);
          return fetch(path, init);
        };"""
    )
    page.type(ENTER)  # nothing written: nothing sent
    # A composition ends with Enter: that Enter chooses a word and sends nothing.
    page.type("first")
    page.script(
        """document.getElementById("question").dispatchEvent(new KeyboardEvent("keydown",
          {key: "Enter", isComposing: true, bubbles: true, cancelable: true}));"""
    )
    assert page.questions == []
    page.type("\ue008" + ENTER + "\ue000", "second")  # Shift+Enter
    assert page.field.get_attribute("value") == "first\nsecond"
    page.type(ENTER)
    page.wait_for_state("writing", "done")
    page.press(ESCAPE)
    page.wait_for_state("stopped", "done")
    assert page.questions == ["first\nsecond"]
    # The question is taken back, changed, and asked in its place.
    page.find("article.question")[0].click()
    page.click("Edit")
    page.wait(lambda: page.field.get_attribute("value") == "first\nsecond")
    assert page.questions == page.answers == []
    page.type(" third", ENTER)
    page.wait_for_state("writing", "done")
    page.press(ESCAPE)
    page.wait_for_state("stopped", "done")
    assert page.script(bodies) == [
        [{"role": "user", "content": "first\nsecond"}],
        [{"role": "user", "content": "first\nsecond third"}],
    ]


def test_a_reload_keeps_the_chat_of_the_tab_only(page: ChatPage) -> None:
    page.ask("Say hello.")
    page.wait_for_state("done")
    page.type("a draft")
    before = (page.questions, page.answers)
    page.reload()
    page.wait(lambda: page.questions)
    assert (page.questions, page.answers) == before
    assert page.field.get_attribute("value") == "a draft"
    # In the midst of an answer, what had arrived is kept.
    page.field.clear()
    page.ask(LONG)
    page.wait(lambda: len(page.answers) == 2 and len(page.answers[-1]) > 20)
    page.reload()
    page.wait(lambda: len(page.answers) == 2)
    assert page.states[-1] == "stopped"
    assert len(page.answers[-1]) > 20
    # Nothing of it is stored where another program on this port could find it later.
    assert page.script("return Object.keys(localStorage)") == []
    assert page.script("return document.cookie") == ""
    page.new_tab()
    page.open()
    assert page.questions == []


def test_another_program_on_the_port_does_not_get_the_chat(page: ChatPage) -> None:
    page.ask("Say hello.")
    page.wait_for_state("done")
    page.script(
        """addEventListener("pagehide", () => {
          const kept = JSON.parse(sessionStorage.getItem("v1.chat"));
          sessionStorage.setItem("v1.chat", JSON.stringify({...kept, instance: "other"}));
        });"""
    )
    page.reload()
    assert page.questions == []


def test_a_program_that_is_replaced_gets_a_page_of_its_own(page: ChatPage) -> None:
    page.script(
        """window.before = true;
        const fetch = window.fetch;
        window.fetch = async (path, init) => {
          if (String(path).includes("chat")) throw new TypeError("gone");
          if (!String(path).includes("info")) return fetch(path, init);
          const info = await (await fetch(path, init)).json();
          return Response.json({...info, instance: "other"});
        };"""
    )
    page.ask("Are you there?")
    page.wait(lambda: page.script("return window.before") is None)
    page.wait(lambda: page.find(".gauge"))


def test_themes(page: ChatPage) -> None:
    def paper() -> str:
        return str(page.script("return getComputedStyle(document.body).backgroundColor"))

    def system(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    system("light")
    light = paper()
    system("dark")
    dark = paper()
    assert light != dark
    page.click("Theme: system")
    assert paper() == light
    page.reload()
    assert paper() == light
    page.click("Theme: light")
    assert paper() == dark
    system("light")
    assert paper() == dark
    page.click("Theme: dark")
    assert paper() == light
    assert page.script("return Object.keys(localStorage)") == []


def test_instructions_reach_the_model_and_survive_a_reload(page: ChatPage) -> None:
    page.click("Instructions")
    area = page.find("dialog textarea")[0]
    area.send_keys("Answer in capital letters.")
    page.click("Save")
    assert not page.find("dialog")
    page.reload()
    page.click("Instructions")
    assert page.find("dialog textarea")[0].get_attribute("value") == "Answer in capital letters."
    page.press(ESCAPE)
    page.wait(lambda: not page.find("dialog"))
    page.script(
        """const fetch = window.fetch;
        window.fetch = (path, init) => {
          if (String(path).includes("chat")) window.body = init.body;
          return fetch(path, init);
        };"""
    )
    page.ask("hello")
    page.wait_for_state("writing", "done")
    page.press(ESCAPE)
    sent = json.loads(page.script("return window.body"))["messages"]
    assert sent[0] == {"role": "system", "content": "Answer in capital letters."}


def test_a_full_context_is_said_with_its_counts(page: ChatPage) -> None:
    words = "word " * 3000
    page.script(
        """const field = document.getElementById("question");
        field.value = arguments[0];
        field.dispatchEvent(new Event("input", {bubbles: true}));""",
        words,
    )
    page.type(ENTER)
    page.wait_for_state("failed")
    said = page.find(".notice.problem")[0].text
    counts = re.search(r"needs ([\d,]+) tokens.* ([\d,]+) in view", said)
    assert counts, said
    assert int(counts[1].replace(",", "")) > 3000
    assert counts[2] == "2,048"
    # Chromium's own note of the answer's status is the only thing on the console.
    assert all("400 (Bad Request)" in line for line in page.console())


def test_an_answer_that_fills_the_context_says_so(browser: Any, packed_smollm2: Path) -> None:
    with own_server(browser, packed_smollm2, "-c", "192", "--temp", "0") as (_, page):
        page.open()
        page.ask(LONG)
        page.wait_for_state("done")
        said = page.find(".notice")[0].text
        assert "fills all 192 tokens" in said
        assert page.find(".gauge.high .numbers")[0].text == "192 of 192 tokens"
        page.find(".notice button")[0].click()
        page.wait(lambda: page.questions == [])
        assert page.find(".gauge.calm .numbers")[0].text == "0 of 192 tokens"
        check_behaviour(page)


def test_thinking_is_folded(page: ChatPage) -> None:
    page.script(
        STREAM, "first thoughts " * 4 + "**then** the answer, which is longer. " * 14, 9, 60
    )
    page.ask("go")
    page.wait_for_state("thinking")
    page.wait(lambda: page.find(".thinking summary")[0].text == "Thinking")
    page.wait_for_state("done")
    assert page.find(".thinking summary")[0].text.startswith("Thought")
    body = page.find(".thinking .markdown")[0]
    assert not body.is_displayed()
    page.find(".thinking summary")[0].click()
    page.wait(body.is_displayed)
    assert body.text.startswith("first thoughts")
    assert "first thoughts" not in page.find("article.answer > .markdown")[0].text


def test_a_key_is_asked_for_and_not_left_in_the_address(
    browser: Any, packed_smollm2: Path, tmp_path: Path
) -> None:
    key = "correct-horse-battery-staple"
    file = tmp_path / "key"
    file.write_text(key + "\n")
    arguments = ("-c", "512", "--api-key-file", str(file))
    with own_server(browser, packed_smollm2, *arguments) as (_, page):
        browser.get(page.url)
        for attempt, outcome in (("wrong", "not accepted"), (key, "")):
            page.wait(lambda: page.find("#key"))
            page.find("#key")[0].clear()
            page.find("#key")[0].send_keys(attempt, ENTER)
            if outcome:
                page.wait(lambda: outcome in page.find(".screen p")[0].text)  # noqa: B023
        page.wait(lambda: page.find(".gauge"))
        page.ask("Say hello.")
        page.wait_for_state("writing", "done")
        page.reload()
        # As the program itself opens it: the key in the fragment.
        page.script("sessionStorage.clear()")
        browser.get("about:blank")
        browser.get(f"{page.url}#key={key}")
        page.wait(lambda: page.find(".gauge"))
        assert browser.current_url == page.url
        assert key not in page.script("return document.documentElement.outerHTML")


def test_the_policy_is_in_force(page: ChatPage, canary: Canary) -> None:
    """Controls: what the other tests find absent would be seen if it were there."""
    assert page.seen == []
    page.script(
        """const made = document.createElement("img");
        made.src = arguments[0];
        document.body.append(made);""",
        f"{canary.url}/image",
    )
    page.wait(lambda: any("img-src" in line for line in page.seen))
    refused = page.script(
        """try { document.body.innerHTML = "<b>x</b>"; return ""; }
        catch (error) { return String(error); }"""
    )
    assert "TrustedHTML" in refused
    assert canary.hits == []
    # The log knows of it although the policy kept it from being sent.
    assert f"{canary.url}/image" in page.requests()
    assert page.console()
    page.script("window.seen = []")


STREAM = """
const [text, step, pause] = arguments;
const fetch = window.fetch;
window.fetch = (path, init) => {
  if (!String(path).includes("chat/completions")) return fetch(path, init);
  const encode = (data) => new TextEncoder().encode(`data: ${data}\\n\\n`);
  const chunk = (delta, finish_reason) =>
    encode(JSON.stringify({choices: [{delta, finish_reason}]}));
  let at = 0;
  return Promise.resolve(new Response(new ReadableStream({
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (at < text.length) {
        const kind = at < text.length / 8 ? "reasoning_content" : "content";
        controller.enqueue(chunk({[kind]: text.slice(at, at + step)}, null));
        at += step;
      } else {
        controller.enqueue(chunk({}, "stop"));
        controller.enqueue(encode("[DONE]"));
        controller.close();
      }
    },
  }), {headers: {"Content-Type": "text/event-stream"}}));
};
"""


def hostile(canary: Canary) -> list[str]:
    payloads = json.loads(HOSTILE.read_text(encoding="utf-8"))
    assert len(payloads) >= 60
    return [payload.replace("CANARY", canary.url) for payload in payloads]


def check_answers(page: ChatPage, canary: Canary) -> None:
    """What was drawn is text, links with manners, and nothing that loads or runs."""
    forbidden = "script,img,iframe,object,embed,video,audio,source,style,link,meta,base,math,form"
    inside = page.script(
        "return [...document.querySelectorAll('article.answer *')]"
        ".flatMap((element) => [element.localName, ...element.getAttributeNames()])"
    )
    assert not set(inside) & {*forbidden.split(","), "src", "srcset", "style", "action", "ping"}
    assert not [name for name in inside if name.startswith("on")]
    links = page.script(
        "return [...document.querySelectorAll('article.answer a')]"
        ".map((a) => [a.getAttribute('href'), a.rel, a.target])"
    )
    assert len(links) > 20
    for address, rel, target in links:
        assert address.startswith(("http://", "https://", "mailto:")), address
        assert (rel, target) == ("noopener noreferrer nofollow", "_blank")
    # Time enough for a request that something above might have begun.
    page.script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert canary.hits == []
    assert page.seen == []
    assert page.script("return window.hit") is None


def test_hostile_answers_stay_text_while_they_stream(page: ChatPage, canary: Canary) -> None:
    text = "\n\n".join(hostile(canary))
    for step in (997, 23):
        page.script(STREAM, text, step, 1)
        page.ask("go")
        page.wait_for_state("done")
        check_answers(page, canary)
        page.reload()
        page.wait(lambda: page.answers)
        check_answers(page, canary)
        page.click("New chat")


def test_each_hostile_answer_alone(page: ChatPage, canary: Canary) -> None:
    """As one stored conversation: a turn for each payload, in answers, thinking and questions."""
    page.ask("Say hello.")
    page.wait_for_state("done")
    page.script(
        """const texts = arguments[0];
        addEventListener("pagehide", () => {
          const kept = JSON.parse(sessionStorage.getItem("v1.chat"));
          const [question, answer] = kept.turns;
          kept.turns = texts.flatMap((text) =>
            [{...question, text},
             {...answer, text, thinking: text, problem: {kind: "other", message: text}}]);
          sessionStorage.setItem("v1.chat", JSON.stringify(kept));
        });""",
        hostile(canary),
    )
    page.reload()
    page.wait(lambda: len(page.find("article.answer")) == len(hostile(canary)))
    check_answers(page, canary)


def test_it_fits_a_phone_and_has_a_name_for_every_control(page: ChatPage) -> None:
    page.script(
        STREAM,
        "# Head\n\n| a | b | c |\n|---|---|---|\n"
        + "| word | other | more |\n" * 3
        + "\n```c\n"
        + "x" * 300
        + "\n```\n\n"
        + "y" * 300,
        50,
        1,
    )
    page.ask("go " + "z" * 300)
    page.wait_for_state("done")
    size = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.script("return document.documentElement.scrollWidth") == 360
        assert (
            page.script(
                "const m = document.querySelector('main'); return m.scrollWidth - m.clientWidth"
            )
            == 0
        )
        nameless = page.script(
            """const controls = "button, textarea, input, [role=img], meter, progress";
            const named = (e) =>
              e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length;
            return [...document.querySelectorAll(controls)]
              .filter((e) => !named(e)).map((e) => e.outerHTML);"""
        )
        assert nameless == []
        ids = page.script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert page.script("return document.activeElement.id") == "question"
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_says_that_the_program_is_gone_and_comes_back(
    browser: Any, packed_smollm2: Path
) -> None:
    with own_server(browser, packed_smollm2, "-c", "512") as (first, page):
        page.open()
        first.stop()
        page.ask("Are you there?")
        page.wait_for_state("failed")
        page.wait(lambda: page.find(".notice.gone"))
        assert "not running" in page.find(".notice.gone")[0].text
        # `--port 0` comes first; the last one given counts.
        with Server(packed_smollm2, "-c", "512", "--port", str(first.port)) as second:
            assert second.port == first.port
            page.wait(lambda: not page.find(".notice.gone"))
            page.click("Try again")
            page.wait_for_state("writing", "done")
            assert page.questions == ["Are you there?"]


def test_the_quit_button_ends_the_program(browser: Any, packed_smollm2: Path) -> None:
    with own_server(browser, packed_smollm2, "-c", "512") as (running, page):
        page.open()
        page.ask("Say hello.")
        page.wait_for_state("writing", "done")
        page.click("Quit")
        page.click("Cancel")
        assert not page.find("dialog")
        assert running.process.poll() is None
        page.click("Quit")
        page.find("dialog .strong-button")[0].click()
        page.wait(lambda: page.find(".screen h1"))
        assert page.find(".screen h1")[0].text == "Closed"
        assert running.process.wait(timeout=20) == 0
        assert page.script("return sessionStorage.length") == 0
        assert page.seen == []


def test_no_quit_button_where_others_use_the_program(browser: Any, packed_smollm2: Path) -> None:
    behind_a_proxy = ("-c", "512", "--allow-host", "chat.example")
    with own_server(browser, packed_smollm2, *behind_a_proxy) as (_, page):
        page.open()
        names = [button.get_attribute("aria-label") for button in page.find("header button")]
        assert "Instructions" in names
        assert "Quit" not in names
        assert page.seen == []
