"""The report's page in a real browser, at the width of a desk and of a hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from synthetic_study import make_results, make_study

from mufree.publish import contents
from mufree.publish.figures import FIGURES, save
from mufree.publish.report import write

TASK = "patches-mlp"
DESK, HAND = 1280, 390
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
    ),
]
LOCAL = ("file:", "data:", "blob:")
BAD_PAGE = """<!doctype html><title>bad</title><body style="margin:0"><div style="width:3000px">wide</div>
<img src="http://127.0.0.1:9/picture.png" alt=""><script>console.error("a fault")</script>"""


def found(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a profile of its own."""
    chromium, driver = found("chromium", "chromium-browser", "google-chrome"), found("chromedriver")
    if not chromium or not driver:
        why = "no chromium and chromedriver on the PATH"
        if os.environ.get("MUFREE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{why}, and MUFREE_REQUIRE_BROWSER=1 asks for them")
        pytest.skip(why)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


POINT = [0.25, 0.5, "SP · AdamW + cosine, width 32\nlog2 rate: 2^−11\nloss (nats): 1.234"]
"""A point of the pictures, a quarter from the left and half way down, and what it says."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the made-up study; its pictures are stand-ins of the usual width."""
    folder = tmp_path_factory.mktemp("report")
    tables = make_study(tasks=(TASK,), widths=(32, 64, 128), log2_lrs=tuple(range(-13, -5)))
    for stem in [contents.OVERVIEW, *(f"{TASK}.{name}" for name in FIGURES)]:
        save(Figure(figsize=(7, 3)), pd.DataFrame({"a": [1]}), folder / "figures" / stem)
        (folder / f"figures/{stem}.points.json").write_text(json.dumps({"points": [POINT]}), encoding="utf-8")
    write(make_results(tables), folder / "figures", folder)
    return folder / "report.html"


def open_at(browser: webdriver.Chrome, page: Path, width: int) -> None:
    """Open a page in a window so wide, with nothing left in the logs of the one before."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())


def errors(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def remote_requests(browser: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert sent, "the log of requests is empty: the check sees nothing"
    return [url for url in sent if not url.startswith(LOCAL)]


def overflow(browser: webdriver.Chrome) -> int:
    """Pixels by which the page is wider than the window."""
    return int(browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))


def open_all(browser: webdriver.Chrome) -> None:
    """Open all that is folded."""
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")


@pytest.mark.parametrize("width", [DESK, HAND])
def test_the_page_is_whole_and_loads_nothing(browser, page, width):
    open_at(browser, page, width)
    assert errors(browser) == []
    assert remote_requests(browser) == []
    assert overflow(browser) <= 0
    pictures = browser.execute_script("return [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt])")
    assert len(pictures) >= 6
    assert all(loaded and alt for loaded, alt in pictures)
    open_all(browser)
    assert overflow(browser) <= 0
    headings = browser.execute_script("return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(headings))


def test_a_bad_page_fails_the_same_checks(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(BAD_PAGE, encoding="utf-8")
    open_at(browser, bad, DESK)
    assert any("a fault" in message for message in errors(browser))
    assert remote_requests(browser) == ["http://127.0.0.1:9/picture.png"]
    assert overflow(browser) > 0


def test_the_first_screen_has_the_answer(browser, page):
    open_at(browser, page, DESK)
    for kind in ("img", "table"):
        top = browser.find_element(By.CSS_SELECTOR, f"#answer {kind}").rect["y"]
        assert top < 900


def test_the_page_stands_without_scripts(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_at(browser, page, DESK)
        assert browser.find_element(By.CSS_SELECTOR, "#answer img").is_displayed()
        assert len(browser.find_elements(By.TAG_NAME, "img")) >= 6
        assert not browser.find_elements(By.CSS_SELECTOR, "th button")
        fold = browser.find_element(By.TAG_NAME, "summary")
        fold.click()
        assert browser.find_element(By.CSS_SELECTOR, "details img").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def column(browser: webdriver.Chrome, table: object, index: int) -> list[str]:
    script = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].textContent)"
    return list(browser.execute_script(script, table, index))


def test_a_table_sorts_by_click_and_by_key(browser, page):
    open_at(browser, page, DESK)
    open_all(browser)
    tables = browser.find_elements(By.CSS_SELECTOR, "table.sortable")
    (table,) = [t for t in tables if t.find_element(By.TAG_NAME, "caption").text.startswith("Best log2 rate of each")]
    headers = table.find_elements(By.CSS_SELECTOR, "thead th")
    width = [h.text for h in headers].index("width")
    before = column(browser, table, width)
    button = headers[width].find_element(By.TAG_NAME, "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    assert headers[width].get_attribute("aria-sort") == "ascending"
    assert column(browser, table, width) == sorted(before, key=int) != before  # as text, 128 would come before 32
    button.send_keys(Keys.ENTER)
    assert headers[width].get_attribute("aria-sort") == "descending"
    assert column(browser, table, width) == sorted(before, key=int, reverse=True)
    headers[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert [h.get_attribute("aria-sort") for h in headers].count("none") == len(headers) - 1
    assert column(browser, table, 0) == sorted(column(browser, table, 0))


ODD_CELLS = ["—", "−0.5 [−1, 0]", "12 of 30", "2^−3", "[0.2, 9]", "at least 3", "< 0.001", "1.5 %"]
AS_NUMBERS = ["−0.5 [−1, 0]", "< 0.001", "2^−3", "[0.2, 9]", "1.5 %", "at least 3", "12 of 30", "—"]


SORT_CELLS = """
    const table = [...document.querySelectorAll('table.sortable')].find(table => table.querySelector('button'));
    const body = table.tBodies[0], button = table.querySelector('button'), row = body.rows[0];
    body.replaceChildren(...arguments[0].map(() => row.cloneNode(true)));
    arguments[0].forEach((text, i) => { body.rows[i].cells[0].textContent = text; });
    const sorted = () => { button.click(); return [...body.rows].map(row => row.cells[0].textContent); };
    return [sorted(), sorted()];
"""


def test_cells_of_all_kinds_sort_as_the_numbers_they_start_with(browser, page):
    open_at(browser, page, DESK)
    up, down = browser.execute_script(SORT_CELLS, ODD_CELLS)
    assert up == AS_NUMBERS
    assert down == [*AS_NUMBERS[-2::-1], "—"]  # what is missing stays last
    open_at(browser, page, DESK)
    words, _ = browser.execute_script(SORT_CELLS, ["b", "—", "10 a", "a"])
    assert words == ["10 a", "a", "b", "—"]


def test_a_point_near_the_pointer_says_what_it_is(browser, page):
    open_at(browser, page, DESK)
    picture = browser.find_element(By.CSS_SELECTOR, "#answer .picture")
    size, tip = picture.size, picture.find_element(By.CLASS_NAME, "tip")
    offset = [round((POINT[0] - 0.5) * size["width"]), round((POINT[1] - 0.5) * size["height"])]
    ActionChains(browser).move_to_element_with_offset(picture, offset[0] + 5, offset[1] - 5).perform()
    assert tip.text == POINT[2]
    ActionChains(browser).move_to_element_with_offset(picture, offset[0] + 100, offset[1]).perform()
    assert not tip.is_displayed()


def test_print_opens_what_is_folded(browser, page):
    open_at(browser, page, DESK)
    folded = "return [...document.querySelectorAll('details')].filter(each => each.open).length"
    assert browser.execute_script(folded) == 0
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(folded) >= 5
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) == 0
