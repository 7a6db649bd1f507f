"""The page, driven in a real Chromium: every view, both languages, both themes, what is wrong and what is dead."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from PIL import Image

VIEWS = ("runs", "play", "compare", "understand", "reports")


def go(page: Any, studio: Any, address: str) -> None:
    page.goto(f"{studio.url}/#/{address}")
    page.wait_for_selector(f'main[data-shown="#/{address}"]', state="attached")


def until(page: Any, question: str, arg: Any = None) -> None:
    """Wait until the page says yes. Playwright's own way evaluates text in the page, which the page's policy forbids."""
    for _ in range(1800):
        if page.evaluate(question, arg):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {question}")


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
    page.wait_for_selector(".card:has-text('mine') .chip.training")
    page.get_by_role("link", name="mine", exact=True).click()
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
    until(page, "first => document.querySelector('.tiles img').src !== first", arg=first[0])
    until(page, "() => location.hash.includes('guidance=6') && !document.querySelector('[aria-busy]')")
    page.get_by_label("Guidance").fill("2")
    until(page, "() => location.hash.includes('guidance=2') && !document.querySelector('[aria-busy]')")
    until(page, "first => document.querySelector('.tiles img').src === first", arg=first[0])
    command = page.locator(".copyable code").first.inner_text()
    assert command.startswith("ebbflow sample --ckpt") and "--labels 3,8" in command and "--steps 3" in command
    assert "ebbflow.sample(" in page.locator(".copyable code").nth(1).inner_text()


def test_a_link_opens_what_it_was_made_of(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=7&each=3&steps=2&seed=11&sampler=ddim")
    page.wait_for_selector(".tile[aria-pressed=true]")
    assert page.locator(".tiles .tile").count() == 3
    assert page.locator(".closer h2").inner_text() == "7 · Seed 11"
    assert page.get_by_label("Sampler").input_value() == "ddim"


def test_a_run_is_distilled_and_a_damaged_one_is_said_to_be(page: Any, studio: Any) -> None:
    go(page, studio, "runs")
    broken = page.locator(".card", has_text="broken")
    assert broken.locator(".chip.damaged").is_visible() and "cannot be read" in broken.locator(".wrong").inner_text()
    page.locator(".card", has=page.get_by_role("link", name="digits", exact=True)).get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_label("Name").input_value() == "digits_distilled"
    dialog.get_by_label("Name").fill("broken")
    dialog.get_by_role("button", name="Start").click()
    page.wait_for_selector("dialog .wrong:has-text('is taken')")
    page.said.clear()
    dialog.get_by_label("Name").fill("quick")
    dialog.get_by_label("Steps", exact=True).fill("2")
    dialog.get_by_label("Batch size").fill("8")
    dialog.get_by_label("More settings").fill("train.sample_every=0\ntrain.held_out_every=0")
    dialog.get_by_role("button", name="Start").click()
    page.wait_for_selector("h1:has-text('quick')")
    page.wait_for_selector(".chip.finished")
    go(page, studio, "runs?name=broken")
    page.wait_for_selector("[role=alert]:has-text('damaged')")
    go(page, studio, "runs")
    page.get_by_role("button", name="New run").click()
    go(page, studio, "reports")
    page.wait_for_selector("h1:has-text('Reports')")
    assert page.get_by_role("dialog").count() == 0, "a form outlived its view"
    page.said.clear()


def test_a_picture_is_followed_varied_painted_and_looked_up(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3&each=2&steps=4")
    page.wait_for_selector(".tile[aria-pressed=true]")
    last = page.locator(".closer img.big").get_attribute("src")
    page.get_by_label("Its way from noise").fill("0")
    assert page.locator(".closer img.big").get_attribute("src") != last
    page.get_by_label("Strength").fill("0.5")
    page.get_by_role("button", name="Vary it").click()
    page.wait_for_selector(".closer .strip button.tile >> nth=7")
    assert "--strength 0.5" in page.locator(".copyable code").first.inner_text()
    page.get_by_role("button", name="Nearest", exact=True).click()
    page.get_by_role("button", name="Find the nearest").click()
    page.wait_for_selector("figure.near >> nth=5")
    page.get_by_role("button", name="Fill in", exact=True).click()
    box = page.locator(".closer canvas.big").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=4)
    page.mouse.up()
    page.locator(".closer canvas.big").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Fill it in").click()
    page.wait_for_selector(".copyable code:has-text('--mask')")
    page.wait_for_selector(".closer .strip button.tile >> nth=7")
    page.locator(".closer .strip .tile").first.click()
    page.get_by_role("button", name="Vary", exact=True).click()
    assert page.locator(".closer img.big").is_visible()


def test_a_picture_goes_to_noise_and_back_and_to_another(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3,8&each=1&steps=2")
    page.wait_for_selector(".tile[aria-pressed=true]")
    page.get_by_role("button", name="There and back", exact=True).click()
    page.get_by_label("Steps each way").fill("6")
    page.get_by_role("button", name="Go there and back").click()
    page.wait_for_selector(".closer .hint:has-text('dB')")
    assert page.locator(".closer .strip button.tile").count() == 9
    assert "ebbflow invert" in page.locator(".copyable code").first.inner_text()
    page.get_by_role("button", name="To another").click()
    page.get_by_label("Images", exact=True).fill("5")
    page.get_by_role("button", name="Choose the other picture").click()
    page.locator(".tiles .tile").nth(1).click()
    page.wait_for_selector(".closer .hint:has-text('Both ends')")
    assert page.locator(".closer .strip button.tile").count() == 5
    assert "--interpolate-with other.png" in page.locator(".copyable code").first.inner_text()


def test_a_picture_of_ones_own_is_varied(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3&each=1&steps=2")
    page.wait_for_selector(".tile[aria-pressed=true]")
    file = io.BytesIO()
    Image.new("L", (16, 16), 120).save(file, format="JPEG")
    page.get_by_label("A picture of your own").set_input_files(
        {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()}
    )
    page.wait_for_selector("h2:has-text('mine.jpg')")
    page.get_by_role("button", name="Vary it").click()
    page.wait_for_selector(".closer .strip button.tile >> nth=7")
    page.get_by_label("A picture of your own").set_input_files(
        {"name": "none.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_role("button", name="Vary it").click()
    page.wait_for_selector(".note.bad:has-text('not a picture')")
    page.said.clear()


def test_a_run_of_vectors_is_asked_by_its_numbers(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=vectors&each=2&steps=2")
    page.wait_for_selector(".tile[aria-pressed=true]")
    page.get_by_label("8", exact=True).fill("0.5")
    page.wait_for_selector(".copyable code:has-text('--vector 1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.5,0.0')")


def test_drawing_can_be_stopped(page: Any, studio: Any) -> None:
    go(page, studio, "play?model=digits&labels=3&each=6&steps=100")
    page.wait_for_selector("[aria-busy=true]")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped.")


def test_two_sliders_move_through_strips_that_were_made_ahead(page: Any, studio: Any) -> None:
    go(page, studio, "compare")
    runs = page.locator(".bench").first.get_by_role("checkbox")
    for box in runs.all():
        box.set_checked(box.locator("xpath=..").inner_text().strip() == "digits")
    strip = page.locator(".rows article", has_text="digits").locator(".strip")
    page.wait_for_selector("text=12.5 ± 0.50, 20.0 ms")
    page.get_by_label("Steps", exact=True).fill("0")
    until(page, "() => document.querySelectorAll('.rows img').length === 10 && !document.querySelector('.rows .stale')")
    first = strip.locator("img").first.get_attribute("src")
    page.get_by_label("Guidance").fill("4")
    until(page, "first => { const one = document.querySelector('.rows img'); return one && one.src !== first; }", first)
    until(page, "() => Number(document.querySelector('.progress progress').value) === 1")
    page.get_by_label("Steps", exact=True).fill("1")
    assert page.locator(".rows .stale").count() == 0, "it was made ahead"
    page.get_by_label("Sampler").select_option("flow_map")
    page.wait_for_selector(".rows .wrong")
    until(page, "() => Number(document.querySelector('.progress progress').value) === 1")
    page.said.clear()


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
    error = "number => Number(document.querySelectorAll('.side')[number].querySelector('dd').textContent)"
    until(page, "() => document.querySelectorAll('.side dd').length === 4")
    few = page.evaluate(error, 0)
    left = page.locator(".side").first
    left.get_by_label("Steps").fill("40")
    until(page, f"few => ({error})(0) < few / 3", few)
    page.get_by_label("Along the way").fill("3")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="ODE and SDE").click()
    page.wait_for_selector(".side:nth-child(2) .hint:has-text('draws noise')")
    page.get_by_role("button", name="Guidance", exact=True).click()
    until(page, "() => document.querySelectorAll('.side [aria-label=\"Guidance\"]').length === 2")
    page.get_by_role("button", name="Straight and curved").click()
    bend = "number => Number(document.querySelectorAll('.side')[number].querySelectorAll('dd')[1].textContent)"
    until(page, "() => document.querySelectorAll('.side dd').length === 4")
    until(page, f"() => ({bend})(0) < 0.3 && ({bend})(1) > 1")
    views = page.locator(".lesson").nth(2)
    before = views.locator("dd").first.inner_text()
    views.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    until(page, "old => document.querySelectorAll('.lesson')[2].querySelector('dd').textContent !== old", arg=before)


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
        until(page, "title => document.title.startsWith(title)", arg=title)
        assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.evaluate("localStorage.clear()")


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_is_wider_than_a_phone(page: Any, studio: Any, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    go(page, studio, view)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name_and_a_place_in_the_order_of_tab(page: Any, studio: Any, view: str) -> None:
    """As a screen reader has it: landmarks, one h1, and no button, link, field or picture without a name."""
    go(page, studio, view)
    page.wait_for_timeout(1000)
    tree = page.locator("body").aria_snapshot()
    nameless = re.findall(
        r"- (?:button|link|textbox|combobox|slider|checkbox|spinbutton|img|dialog|progressbar)\b(?! \").*", tree
    )
    assert nameless == [], tree
    assert tree.count("- banner") == tree.count("- main") == tree.count("- navigation") == 1
    assert len(re.findall(r"- heading .*\[level=1\]", tree)) == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(7):  # what every view has
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body && document.activeElement.checkVisibility()")


def test_a_dead_server_is_said_to_be(page: Any, studio: Any) -> None:
    go(page, studio, "runs")
    page.wait_for_selector(".card h2")
    page.route("**/studio/**", lambda route: route.abort())
    page.locator("nav a", has_text="Reports").click()
    page.wait_for_selector("[role=alert]:has-text('does not answer')")
    page.unroute("**/studio/**")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("a:has-text('compare.html')")
    page.said.clear()
