"""The page in a real browser, over the models that ship with tagline."""

import socket
import threading
from pathlib import Path

import pytest
import uvicorn

from operators.embedded.scenes import describe, describe_in_chinese, draw_scenes
from schemas.config import ServedConfig, parse_as
from tests import serving

CHROMIUM = "/usr/bin/chromium"
CHAIN = {
    "caption": {"use": "captioner", "model": "embedded:captioner"},
    "entailment": {"use": "entailment", "model": "embedded:entailment", "hypothesis": "caption"},
    "match": {"use": "matcher", "model": "embedded:matcher", "text": "caption"},
    "embedding": {"use": "embedder", "model": "embedded:embedder"},
    "tags": {
        "use": "tagger",
        "model": "embedded:entailment",
        "embedder": "embedded:embedder",
        "taxonomy": "infra/examples/taxonomies/scenes.yaml",
    },
}
SCENES = list(draw_scenes(3, 11))
SCENE = SCENES[0]
TOKEN = "correct horse battery"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}"),
]


def config(**serve):
    return parse_as(ServedConfig, {"operators": CHAIN, "serve": serve})


def listening(config, tokens=()):
    """Starts a server in a thread; gives its address and what ends it."""
    app = serving.served(config, tokens=tokens)
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
def address(tmp_path_factory):
    images = [serving.encoded(scene) for scene in SCENES]
    index = serving.indexed(tmp_path_factory.mktemp("page"), config(), images)
    address, end = listening(config(index=index))
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


def test_pictures_are_searched_by_words_and_by_likeness(page):
    upload(page)
    page.wait_for_selector("#near li")
    assert describe(SCENE) in page.locator("#near li").first.inner_text()
    for words in (describe(SCENES[1]), describe_in_chinese(SCENES[1])):
        page.fill("#words", words)
        page.press("#words", "Enter")
        page.wait_for_selector("#found .busy", state="detached")
        page.wait_for_selector("#found img")
        assert describe(SCENES[1]) in page.locator("#found li").first.inner_text()
    shown = page.locator("#found img").first
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_tags_are_shown_as_chips(page):
    upload(page)
    page.wait_for_selector(".chips li")
    (row,) = serving.as_job(config(), [serving.encoded(SCENE)])
    shown = page.locator(".chips li").all_inner_texts()
    assert len(shown) == len(row["tags"]) > 0
    for chip, tag in zip(shown, row["tags"], strict=True):
        assert chip.startswith(tag["label"])


def test_what_models_say_is_never_taken_for_markup(page):
    page.fill("#claim", "<img src=x onerror=alert(1)>")
    upload(page)
    page.wait_for_selector(".said")
    assert "<img src=x onerror=alert(1)>" in page.inner_text(".said")
    assert page.locator("#verdict img").count() == 0


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
    address, end = listening(config(), [TOKEN])
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
