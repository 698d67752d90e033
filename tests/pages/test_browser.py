"""Every page in a real browser without a window, at the width of a desk and of a phone, and through axe-core.

axe-core is no part of the development tools: `npm install --no-save axe-core` in the repository's root, or a
path to its axe.min.js in HBT_DIST_AXE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KINDS = ("evaluation", "change", "search", "study")
AXE = Path(
    os.environ.get("HBT_DIST_AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js")
)


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


@pytest.mark.parametrize("kind", KINDS)
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
        found = browser.execute_script(shown)
        assert len(found) > 3
        assert all(found)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
