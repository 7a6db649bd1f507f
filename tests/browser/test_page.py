"""The page, driven in a real Chromium: every view, both languages, both themes, what is wrong and what is dead."""

from __future__ import annotations

from typing import Any

import pytest

VIEWS = ("runs", "play", "compare", "understand", "reports")


def go(page: Any, studio: Any, address: str) -> None:
    page.goto(f"{studio.url}/#/{address}")
    page.wait_for_selector("main .view > *")


def number(page: Any, selector: str) -> float:
    return float(page.locator(selector).first.inner_text().split()[-1])


def test_a_training_is_started_watched_and_stopped(page: Any, studio: Any) -> None:
    go(page, studio, "runs")
    page.get_by_role("button", name="New run").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("mine")
    dialog.get_by_label("Learning rate").fill("-1")
    dialog.get_by_role("button", name="Start").click()
    page.wait_for_selector("dialog .wrong:has-text('must be above 0')")
    assert dialog.get_by_label("Learning rate").get_attribute("aria-invalid") == "true"
    page.said.clear()  # the browser notes every refusal
    dialog.get_by_label("Learning rate").fill("0.001")
    dialog.get_by_label("Steps", exact=True).fill("100000")
    dialog.get_by_label("Batch size").fill("8")
    dialog.get_by_label("More settings").fill("net.channels=[4,4]\ntrain.sample_every=0\ntrain.held_out_every=0")
    dialog.get_by_role("button", name="Start").click()
    page.wait_for_selector("a.card:has-text('mine') .chip.training")
    page.locator("a.card", has_text="mine").click()
    page.wait_for_selector("svg.chart path")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(".chip.stopped")
    assert page.get_by_role("button", name="Go on").is_visible()


def test_a_knob_changes_pictures_that_keep_their_seeds(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3,8&each=2&steps=3")
    page.wait_for_selector(".tile[aria-pressed=true]")
    assert page.locator(".tiles .tile").count() == 4
    first = page.locator(".tiles .tile img").evaluate_all("all => all.map(one => one.src)")
    page.get_by_label("Guidance").fill("6")
    page.wait_for_function("first => document.querySelector('.tiles img').src !== first", arg=first[0])
    page.wait_for_function("() => location.hash.includes('guidance=6') && !document.querySelector('[aria-busy]')")
    page.get_by_label("Guidance").fill("2")
    page.wait_for_function("() => location.hash.includes('guidance=2') && !document.querySelector('[aria-busy]')")
    page.wait_for_function("first => document.querySelector('.tiles img').src === first", arg=first[0])
    command = page.locator(".copyable code").first.inner_text()
    assert command.startswith("ebbflow sample --ckpt") and "--labels 3,8" in command and "--steps 3" in command
    assert "ebbflow.sample(" in page.locator(".copyable code").nth(1).inner_text()


def test_a_link_opens_what_it_was_made_of(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=7&each=3&steps=2&seed=11&sampler=ddim")
    page.wait_for_selector(".tile[aria-pressed=true]")
    assert page.locator(".tiles .tile").count() == 3
    assert page.locator(".closer h2").inner_text() == "7 · Seed 11"
    assert page.get_by_label("Sampler").input_value() == "ddim"


def test_a_picture_is_followed_varied_painted_and_looked_up(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3&each=2&steps=4")
    page.wait_for_selector(".tile[aria-pressed=true]")
    last = page.locator(".closer img.big").get_attribute("src")
    page.get_by_label("Its way from noise").fill("0")
    assert page.locator(".closer img.big").get_attribute("src") != last
    page.get_by_label("Strength").fill("0.5")
    page.get_by_role("button", name="Vary").click()
    page.wait_for_selector(".closer .strip .tile >> nth=7")
    page.get_by_role("button", name="Nearest training pictures").click()
    page.wait_for_selector("figure.near >> nth=5")
    page.get_by_role("button", name="Fill in", exact=True).click()
    box = page.locator(".closer canvas.big").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Fill it in").click()
    page.wait_for_selector(".copyable code:has-text('--mask')")
    page.wait_for_function("() => !document.querySelector('.closer [aria-busy]')")
    page.locator(".closer .strip .tile").first.click()
    assert page.locator(".closer img.big").is_visible()


def test_drawing_can_be_stopped(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3&each=6&steps=100")
    page.wait_for_selector("[aria-busy=true]")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped.")


def test_one_knob_is_compared_on_the_same_seeds(page: Any, studio: Any) -> None:
    go(page, studio, "compare")
    page.get_by_label("Values").fill("1, 2, oops")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("tbody tr >> nth=2")
    page.wait_for_selector("tbody tr:nth-child(2) img >> nth=9")
    page.wait_for_selector("tbody tr:nth-child(3) .wrong")
    page.said.clear()


def test_lessons_answer_to_every_slider(page: Any, studio: Any) -> None:
    go(page, studio, "understand")
    page.wait_for_selector(".lesson:nth-of-type(3) dl.facts")
    time = page.get_by_label("Time t").first
    time.fill("0")
    assert number(page, ".lesson >> nth=0 >> dd >> nth=1") == 1.0
    time.fill("60")
    assert number(page, ".lesson >> nth=0 >> dd >> nth=2") == 1.0
    ways = page.locator(".lesson").nth(1)
    page.wait_for_function("() => document.querySelectorAll('.lesson')[1].querySelector('dd')")
    few = float(ways.locator("dd").first.inner_text())
    ways.get_by_label("Steps").fill("40")
    page.wait_for_function(
        "few => Number(document.querySelectorAll('.lesson')[1].querySelector('dd').textContent) < few / 3", arg=few
    )
    ways.get_by_label("Step", exact=True).fill("3")
    ways.get_by_role("button", name="Play").click()
    ways.get_by_role("button", name="Pause").click()
    views = page.locator(".lesson").nth(2)
    before = views.locator("dd").first.inner_text()
    views.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "old => document.querySelectorAll('.lesson')[2].querySelector('dd').textContent !== old", arg=before
    )


def test_reports_are_opened_in_a_box(page: Any, studio: Any) -> None:
    go(page, studio, "reports")
    page.get_by_role("link", name="compare.html").click()
    assert page.frame_locator("iframe").locator("h1").inner_text() == "A comparison"


def test_every_view_speaks_chinese_and_has_a_dark_side(page: Any, studio: Any) -> None:
    go(page, studio, "runs")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.get_by_role("button", name="中文").click()
    for view, title in zip(VIEWS, ("训练", "生成", "并排", "理解", "报告"), strict=True):
        go(page, studio, view)
        page.wait_for_function("title => document.title.startsWith(title)", arg=title)
        assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.evaluate("localStorage.clear()")


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_is_wider_than_a_phone(page: Any, studio: Any, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    go(page, studio, view)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name(page: Any, studio: Any, view: str) -> None:
    go(page, studio, view)
    page.wait_for_timeout(500)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, select, textarea, img')].filter(one =>
        !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length || one.hasAttribute('alt')))
        .map(one => one.outerHTML)"""
    )
    assert nameless == []


def test_a_dead_server_is_said_to_be(page: Any, studio: Any) -> None:
    go(page, studio, "runs")
    page.wait_for_selector("a.card")
    page.route("**/studio/**", lambda route: route.abort())
    page.locator("nav a", has_text="Reports").click()
    page.wait_for_selector("[role=alert]:has-text('does not answer')")
    page.unroute("**/studio/**")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("a:has-text('compare.html')")
    page.said.clear()
