"""Fixtures that every room's tests share."""

from __future__ import annotations

import collections
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is no reason to fail: no time limit for examples or for making them; all runs have the same.
settings.register_profile(
    "hbt-dist", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hbt-dist")


#: Longest default test on a quiet machine; longer tests carry the mark `slow`. The limit grows with the load
#: of the machine, counted in runnable processes per core.
SECONDS_OF_A_DEFAULT_TEST = 5.0
_NOT_DEFAULT = {"slow", "ray", "cluster"}
_seconds: dict[str, float] = collections.defaultdict(float)
_over_budget: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-up and call of every default test."""
    if report.when == "teardown" or _NOT_DEFAULT & set(report.keywords):
        return
    _seconds[report.nodeid] += report.duration
    crowding = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    if _seconds[report.nodeid] > SECONDS_OF_A_DEFAULT_TEST * crowding:
        _over_budget[report.nodeid] = _seconds[report.nodeid]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose default tests take too long; in a worker of xdist there is nothing to decide."""
    if _over_budget and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that need the mark `slow`, or less time."""
    for name, seconds in sorted(_over_budget.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(
            f"OVER BUDGET {seconds:.1f} s, a default test has {SECONDS_OF_A_DEFAULT_TEST:g} s: {name}",
            red=True,
        )


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public data sets (XQuAD-R, MLQA-R, ...), which are not part of this repository."""
    root = Path(os.environ.get("HBT_DIST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "xquad-r" / "en.json").is_file():
        pytest.skip(f"no public data sets at {root}; set HBT_DIST_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a window. Needs chromium with its driver, and selenium."""
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with chromedriver on PATH: apt-get install chromium chromium-driver")
    assert selenium
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # chromium refuses its sandbox to root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()
