"""The page in a real browser, over the models that ship with tagline."""

import socket
import threading
from pathlib import Path

import pytest
import uvicorn

from jobs.serve import application
from jobs.serving.chain import build_chain
from jobs.serving.figures import Figures
from jobs.serving.search import Searcher
from operators.embedded.scenes import describe, draw_scenes
from schemas.config import ServedConfig, parse_as
from tests import serving

CHROMIUM = "/usr/bin/chromium"
CHAIN = {
    "caption": {"use": "captioner", "model": "embedded:captioner"},
    "entailment": {"use": "entailment", "model": "embedded:entailment", "hypothesis": "caption"},
    "match": {"use": "matcher", "model": "embedded:matcher", "text": "caption"},
}
SCENE = next(iter(draw_scenes(1, 11)))
TOKEN = "correct horse battery"
FOUND = [{"image_id": "7", "score": 0.5, "caption": "<b>an apple</b>"}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}"),
]


class Index:
    """An index that finds the same whatever is asked, and remembers what was."""

    def __init__(self):
        self.asked = []

    def search(self, *, text, image, limit):
        self.asked.append(text or len(image))
        return FOUND


def listening(tokens=()):
    """Starts a server in a thread; gives its address and what ends it."""
    config = parse_as(ServedConfig, {"operators": CHAIN, "serve": {"index": "index"}})
    operators, links = build_chain(config)
    backend = serving.InProcess(operators)
    app = application(config, links, backend, Figures(), list(tokens))
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()

    def end():
        server.should_exit = True
        thread.join()
        bound.close()

    return f"http://127.0.0.1:{bound.getsockname()[1]}", end


@pytest.fixture(scope="module")
def index():
    return Index()


@pytest.fixture(scope="module")
def address(index):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Searcher, "of", lambda path: Searcher(path, index))
        address, end = listening()
    yield address
    end()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    faults = []
    page.on("pageerror", lambda fault: faults.append(fault))
    page.goto(address)
    page.wait_for_selector("#ask:visible")
    yield page
    page.close()
    assert faults == []


def upload(page, content=None):
    content = serving.encoded(SCENE) if content is None else content
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})


def test_a_picture_is_captioned_and_a_claim_judged(page):
    upload(page)
    page.wait_for_selector(".caption")
    assert page.inner_text(".caption").lower() == describe(SCENE)
    page.click("summary")
    assert page.locator("details li").count() == 5
    page.fill("#claim", describe(SCENE))
    page.press("#claim", "Enter")
    page.wait_for_selector(".verdict")
    assert page.inner_text(".said").startswith("Yes")
    shares = page.locator(".verdict .number").all_inner_texts()
    assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.2)
    widths = [
        bar["width"] for bar in (one.bounding_box() for one in page.locator(".verdict i").all())
    ]
    assert widths[0] > widths[1]


def test_pictures_are_searched_by_words_and_by_likeness(page, index):
    upload(page)
    page.wait_for_selector("#near li")
    page.fill("#words", "红色的苹果")
    page.press("#words", "Enter")
    page.wait_for_selector("#found li")
    assert "红色的苹果" in index.asked
    assert len(serving.encoded(SCENE)) in index.asked
    assert "<b>an apple</b>" in page.inner_text("#found")  # as text, never as markup


def test_what_goes_wrong_is_told_in_words(page):
    upload(page, b"hello")
    page.wait_for_selector("#alarm:visible")
    assert "This file is not a picture." in page.inner_text("#alarm")
    upload(page)
    page.wait_for_selector(".caption")
    assert page.locator("#alarm").is_hidden()


def test_a_claim_without_a_picture_is_told_what_to_do(page):
    page.fill("#claim", "there is a dog")
    page.press("#claim", "Enter")
    assert "Choose a picture first" in page.inner_text("#alarm")


def test_the_keyboard_reaches_everything_in_reading_order(page):
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.innerText")
        )
    assert reached == ["file", "claim", "Ask", "words", "Search"]


def test_every_control_has_a_name_and_news_are_announced(page):
    for control in page.locator("input:visible, button:visible").all():
        name = control.evaluate(
            "node => node.ariaLabel || node.labels?.[0]?.innerText || node.innerText"
        )
        assert name, control
    upload(page)
    page.wait_for_selector(".caption")
    assert page.inner_text("[role=status]") == f"Caption: {describe(SCENE)}"
    assert page.get_attribute("#picture", "alt")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_overflows_and_text_stands_out(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(address)
    upload(page)
    page.wait_for_selector(".caption")
    page.fill("#claim", "nothing " * 30)
    page.press("#claim", "Enter")
    page.wait_for_selector(".verdict")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, AA
    page.close()


def test_a_server_with_tokens_asks_for_one(browser):
    address, end = listening([TOKEN])
    try:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#token:visible")
        page.fill("#token", "not this one, surely")
        page.press("#token", "Enter")
        page.wait_for_selector("#alarm:visible")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#ask:visible")
        assert page.locator("#door").is_hidden()
        page.close()
    finally:
        end()


CONTRAST = """() => {
  const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const found = numbers(getComputedStyle(node).backgroundColor);
      if (found.length < 4 || found[3] > .99) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let least = 21;
  for (let text; text = walker.nextNode();) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.tagName === "SCRIPT") continue;
    const both = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    least = Math.min(least, (Math.max(...both) + .05) / (Math.min(...both) + .05));
  }
  return least;
}"""
