"""Every page in a real browser without a window, at the width of a desk and of a phone, and through axe-core.

axe-core is no part of the development tools: `npm install --no-save axe-core` in the repository's root, or a
path to its axe.min.js in HBT_DIST_AXE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.pages.document import Document
from hbt_dist.pages.matrix import Matrix

pytestmark = pytest.mark.slow  # a browser, and pages of every kind
PAPER = 718  # pixels
KINDS = ("evaluation", "change", "search", "study")
AXE = Path(
    os.environ.get("HBT_DIST_AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js")
)


@pytest.fixture(params=["light", "dark"])
def coloured(request: pytest.FixtureRequest, browser: Any) -> Iterator[str]:
    """The reader's choice of colours."""
    wanted = [{"name": "prefers-color-scheme", "value": request.param}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    yield request.param
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def sized(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    width: int = request.param
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_too_wide_and_nothing_fails(sized: Any, pages: dict[str, Path], kind: str) -> None:
    sized.get(pages[kind].as_uri())
    assert sized.get_log("browser") == []  # no errors, and nothing that the security policy refused
    wide, inner = sized.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
    assert wide <= inner
    frames = sized.find_elements("css selector", ".scroll")
    assert all(0 < frame.size["width"] <= inner for frame in frames if frame.is_displayed())
    broken = sized.execute_script("return [...document.images].filter((one) => !one.naturalWidth).length")
    assert broken == 0


CAPTIONS = """
for (const one of document.querySelectorAll("details")) one.open = true;
return [...document.querySelectorAll(".scroll")].filter((frame) => frame.checkVisibility()).flatMap((frame) =>
  [0, frame.scrollWidth].map((left) => {
    frame.scrollLeft = left;
    const text = frame.querySelector("caption span").getBoundingClientRect();
    const around = frame.getBoundingClientRect();
    return [Math.max(around.left, 0) - text.left, text.right - Math.min(around.right, window.innerWidth)];
  }));
"""


@pytest.mark.parametrize("kind", KINDS)
def test_captions_stay_in_sight_while_tables_scroll(sized: Any, pages: dict[str, Path], kind: str) -> None:
    sized.get(pages[kind].as_uri())
    beyond = sized.execute_script(CAPTIONS)
    assert len(beyond) > 6
    assert max(max(sides) for sides in beyond) <= 0
    plain = "caption span { position: static !important; max-width: none !important }"
    sized.execute_script(
        "document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))",
        plain,
    )
    narrow = sized.execute_script("return window.innerWidth") < 500
    if narrow and kind != "search":  # whose tables all fit; and this finds captions that do not
        assert max(max(sides) for sides in sized.execute_script(CAPTIONS)) > 100


@pytest.mark.parametrize("kind", ["evaluation", "change"])
def test_the_answer_is_on_the_first_screen(sized: Any, pages: dict[str, Path], kind: str) -> None:
    sized.get(pages[kind].as_uri())
    lead, tiles, matrix = sized.execute_script(
        "return ['.lead', '.tiles', '.matrix, svg'].map((one) => document.querySelector(one))"
        ".map((one) => one.getBoundingClientRect()).map((one) => [one.top, one.bottom])"
    )
    assert lead[1] < tiles[0]
    assert tiles[1] < 600
    assert matrix[0] < (800 if sized.execute_script("return window.innerWidth") > 500 else 1100)


CELLS = """
return [...document.querySelectorAll(".matrix td.n")].filter((cell) => cell.checkVisibility())
  .map((cell) => cell.getBoundingClientRect()).map((cell) => Math.min(cell.width, cell.height));
"""


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_large_and_tables_are_not_cut_off(sized: Any, pages: dict[str, Path], kind: str) -> None:
    sized.get(pages[kind].as_uri())
    cells = sized.execute_script(CELLS)
    assert min(cells, default=40) >= 40
    cut = sized.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter((one) => one.checkVisibility() && "
        "!one.querySelector('.matrix') && one.scrollWidth > one.clientWidth + 1)"
        ".map((one) => one.getAttribute('aria-label'))"
    )
    assert cut == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_takes_the_colours_that_a_reader_wants(
    coloured: str, browser: Any, pages: dict[str, Path], kind: str
) -> None:
    browser.get(pages[kind].as_uri())
    colours = browser.execute_script(
        "return ['html', '.scroll'].map((one) => getComputedStyle(document.querySelector(one)))"
        ".map((one) => [one.backgroundColor, one.color, one.borderTopColor])"
    )
    ground, ink, line = (_luminance(colours[i][j]) for i, j in ((0, 0), (0, 1), (1, 2)))
    assert (ground < ink) == (coloured == "dark")
    assert _contrast(ground, ink) > 12
    assert 1.4 < _contrast(ground, line) < 3  # lines are seen, and are no louder than text


def _luminance(colour: str) -> float:
    parts = [float(one) / 255 for one in re.findall(r"[\d.]+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("coloured")
def test_axe_finds_nothing(sized: Any, pages: dict[str, Path], kind: str) -> None:
    if not AXE.is_file():
        pytest.skip(f"no axe-core at {AXE}: npm install --no-save axe-core, or set HBT_DIST_AXE")
    sized.get(pages[kind].as_uri())
    sized.execute_script(AXE.read_text("utf-8"))
    found = sized.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 20
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]] == []


def test_what_is_folded_is_open_in_print(browser: Any, pages: dict[str, Path]) -> None:
    browser.get(pages["study"].as_uri())
    tables = "return [...document.querySelectorAll('details table')].map((one) => one.checkVisibility(%s))"
    shown = tables % "{contentVisibilityAuto: true}"
    assert not any(browser.execute_script(shown))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        found = browser.execute_script("document.body.offsetHeight; " + shown)  # once laid out for print
        assert len(found) > 2
        assert all(found)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.fixture
def paper(browser: Any) -> Iterator[Any]:
    """The width of A4 paper less its margins."""
    size = {"width": PAPER, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def too_wide(browser: Any, page: Path) -> list[str]:
    """What reaches beyond the paper."""
    browser.get(page.as_uri())
    found = browser.execute_script(
        "return [...document.querySelectorAll('.scroll > table, img, svg')]"
        ".filter((one) => one.checkVisibility())"
        ".map((one) => [one.getBoundingClientRect().right, one.outerHTML.slice(0, 200)])"
    )
    assert len(found) > 0
    return [text for right, text in found if right > PAPER]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_in_print(paper: Any, pages: dict[str, Path], kind: str) -> None:
    assert too_wide(paper, pages[kind]) == []


def test_a_matrix_of_many_languages_fits_the_paper(paper: Any, tmp_path: Path) -> None:
    size = 30
    document = Document("many", "made report")
    document.heading("Matrix")
    cells = np.full((size, size), 0.888)
    names = tuple(f"l{i}" for i in range(size))
    marks = np.ones((size, size), dtype=bool)
    document.matrix(Matrix("made", names, cells, difference=True, marks=marks))
    document.write(tmp_path, "page")
    assert too_wide(paper, tmp_path / "page.html") == []
