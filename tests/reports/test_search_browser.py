"""The report in a real browser without a window. Needs chromium with its driver, and selenium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hbt_dist.analysis import write_search_report
from tests.analysis.made_search import rewrite_trial, write_search


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    search = write_search(tmp_path_factory.mktemp("made") / "search")
    rewrite_trial(search / "trials" / "p0003-s1", status="failed", error="<b>worker</b> died")
    report = write_search_report(search, compare=("p0000-s0", "p0005-s0"))
    return (report / "report.html").as_uri()


@pytest.fixture
def opened(browser: Any, page: str) -> Iterator[Any]:
    browser.set_window_size(1200, 1000)
    browser.get(page)
    yield browser
    assert browser.get_log("browser") == []  # no errors, and nothing that the security policy refused


def css(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def details(browser: Any) -> str:
    return css(browser, "#details")[0].text


def test_front_is_visible_and_a_click_shows_the_run(opened: Any) -> None:
    marks = css(opened, ".mark")
    assert len(marks) == 6 * 3
    chart = css(opened, "#front-chart svg")[0]
    assert chart.is_displayed()
    assert chart.size["width"] > 400
    assert "knee" in details(opened)  # chosen at the start
    mark = css(opened, '.mark[data-point="3"][data-step="100"]')[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    mark.click()
    shown = details(opened)
    for text in ("Point 3 after step 100", "batches.alpha", "0.6", "p0003-s0", "p0003-s1", "worker hours"):
        assert text in shown
    assert "<b>worker</b> died" in shown
    assert [one.get_attribute("aria-selected") for one in css(opened, ".mark")].count("true") == 1


def test_keys_move_the_choice(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    css(opened, '.mark[tabindex="0"]')[0].send_keys(Keys.HOME)
    first = details(opened)
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    second = details(opened)
    assert first != second
    opened.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert details(opened) == first


def test_other_objectives_and_only_the_front(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    Select(css(opened, "#x-objective")[0]).select_by_visible_text("rank distance")
    assert "rank distance (lower is better)" in css(opened, "#front-chart svg")[0].text
    css(opened, "#all-checkpoints")[0].click()
    assert 0 < len(css(opened, ".mark")) < 18
    Select(css(opened, "#curve-parameter")[0]).select_by_visible_text("optimizer.learning_rate")
    assert len(css(opened, "#curve-charts figure")) == 4


def test_tables_sort_and_the_total_stays_last(opened: Any) -> None:
    head = css(opened, "#t-points thead th:nth-child(4)")[0]

    def column() -> list[float]:
        cells = css(opened, "#t-points tbody td:nth-child(4)")
        return [float(cell.get_attribute("data-v")) for cell in cells]

    opened.execute_script("arguments[0].querySelector('button').click()", head)
    assert column() == sorted(column())
    assert head.get_attribute("aria-sort") == "ascending"
    opened.execute_script("arguments[0].querySelector('button').click()", head)
    assert column() == sorted(column(), reverse=True)
    hours = css(opened, "#t-cost thead th:last-child button")[0]
    for _ in range(2):
        opened.execute_script("arguments[0].click()", hours)
        assert css(opened, "#t-cost tbody tr:last-child td")[0].get_attribute("textContent") == "total"


def test_a_phone_needs_no_sideways_scrolling(opened: Any) -> None:
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        opened.refresh()
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 400
        assert css(opened, "#front-chart svg")[0].size["width"] <= 400
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
