"""Fixtures that every room's tests share."""

from __future__ import annotations

import collections
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
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


def pytest_collection_finish() -> None:
    """Load the fork server if a collected test uses it: no test pays for its imports."""
    if (helper := sys.modules.get("tests.helpers.forkserver")) is not None:
        helper.await_loaded()


def pytest_runtest_setup() -> None:
    """Show notes: a command that a former test ran in this process may have been quiet."""
    from hbt_dist.common.console import hush

    hush(False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-up and call of every default test."""
    if report.when == "teardown" or _NOT_DEFAULT & set(report.keywords):
        return
    _seconds[report.nodeid] += report.duration
    crowding = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    if _seconds[report.nodeid] > SECONDS_OF_A_DEFAULT_TEST * crowding:
        _over_budget[report.nodeid] = _seconds[report.nodeid]


#: In the environment of every process that a test run starts, Ray's daemons included.
_SESSION = "HBT_DIST_TEST_SESSION"
os.environ.setdefault(_SESSION, uuid.uuid4().hex)
_leftovers: list[str] = []


def left_processes(seconds: float) -> list[str]:
    """Return the command lines of processes of this run that still live after a grace, but its own."""
    deadline = time.monotonic() + seconds
    while True:
        lines = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if process.environ().get(_SESSION) != os.environ[_SESSION] or not line:
                    continue
            except psutil.Error:
                continue
            if process.pid != os.getpid() and "from multiprocessing." not in line:
                lines.append(line)
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.5)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose default tests take too long, or that leaves processes behind."""
    if hasattr(session.config, "workerinput"):
        return  # a worker of xdist: its controller decides
    _leftovers.extend(left_processes(seconds=30))
    # Beside slow tests, which start Ray and trainings, the time of a default test says little about it.
    fast_tier = "not slow" in session.config.option.markexpr
    if _leftovers or (_over_budget and fast_tier):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that need the mark `slow`, or less time."""
    for name, seconds in sorted(_over_budget.items(), key=lambda item: -item[1]):
        line = f"OVER BUDGET {seconds:.1f} s of {SECONDS_OF_A_DEFAULT_TEST:g} s: {name}"
        terminalreporter.write_line(line, red=True)
    for line in _leftovers:
        terminalreporter.write_line(f"LEFT BEHIND: {line[:200]}", red=True)


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


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an object store on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        yield f"127.0.0.1:{server.get_host_and_port()[1]}"
    finally:
        server.stop()
