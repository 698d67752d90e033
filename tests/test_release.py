"""Dockerfile, release workflow and installation page name files, extras and versions that exist.

Neither an image nor a release is built here; tests/test_wheel.py takes the workflow's steps.
"""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import hbt_dist
from hbt_dist.doctor import machine

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: Of the tested versions, in the first line of constraints.txt.
PYTHON = re.search(r"CPython ([\d.]+)", (ROOT / "constraints.txt").read_text("utf-8"))[1]  # type: ignore[index]


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def workflow() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))
    return content


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workflow()["jobs"]["build"]["steps"]
    return found


def is_sent(name: str) -> bool:
    """Whether Docker sends a file of the repository: the last line of .dockerignore that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(name, pattern) or name.startswith(f"{pattern}/")):
            sent = line.startswith("!")
    return sent


def test_the_image_has_the_tested_python_and_existing_files() -> None:
    lines = instructions()
    assert lines[0] == ("FROM", f"python:{PYTHON}-slim")
    copied = [rest.split()[0] for name, rest in lines if name == "COPY"]
    assert copied == ["constraints.txt", "."]
    assert is_sent("constraints.txt")
    for needed in ("hbt_dist", "deepspeed_configs", "ray_configs", "launchers"):
        files = {path.name for path in (ROOT / needed).iterdir()} - {"__pycache__"}
        assert all(is_sent(f"{needed}/{name}") for name in files), needed
    for name in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        assert (ROOT / name).is_file()
        assert is_sent(name), name
    assert not any(is_sent(name) for name in (".git/HEAD", "tests/conftest.py", "runs/a/model/x", ".venv/x"))


def test_the_image_installs_a_flavour_and_is_checked_by_its_user() -> None:
    lines = instructions()
    assert ("ARG", "FLAVOUR=cpu") in lines
    assert {"cpu", "gpu"} <= set(EXTRAS)
    installs = [rest for name, rest in lines if name == "RUN" and rest.startswith("pip install")]
    assert all("-c /opt/hbt_dist/constraints.txt" in rest for rest in installs)
    assert installs[-1].endswith('"/opt/hbt_dist[$FLAVOUR]"')
    user, checked = lines.index(("USER", "trainer")), lines.index(("RUN", "hbt-dist doctor"))
    assert user < checked
    assert [rest for name, rest in lines if name == "USER"] == ["trainer"]
    assert any(name == "RUN" and re.search(r"useradd .*\btrainer\b", rest) for name, rest in lines[:user])


def test_the_workflow_builds_and_checks_on_a_tag() -> None:
    content = workflow()
    assert content[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}  # YAML reads `on` as true
    assert content["permissions"] == {"contents": "read"}
    (python,) = [step["with"]["python-version"] for step in steps() if "setup-python" in step.get("uses", "")]
    assert python == PYTHON
    runs = [step["run"] for step in steps() if "run" in step]
    order = ("python -m build", "twine check --strict", "-m venv", 'hbt-dist" --version', "train quickstart")
    positions = [next(i for i, run in enumerate(runs) if part in run) for part in order]
    assert positions == sorted(positions)
    installs = [line for run in runs for line in run.splitlines() if "install -c" in line]
    assert len(installs) == 3
    assert all("-c constraints.txt" in line for line in installs)
    for tool in ("build", "twine"):
        assert tool in installs[0]
        assert tool in machine.tested_versions()
    assert "[cpu]" in installs[-1]


@pytest.mark.parametrize("name", ["Dockerfile", ".github/workflows/release.yml", "docs/install.md"])
def test_no_address_of_a_registry(name: str) -> None:
    assert "://" not in (ROOT / name).read_text("utf-8")


def test_tested_versions_are_admitted() -> None:
    """By pyproject.toml: of the package, of each extra, and of the build."""
    listed = [*PROJECT["dependencies"], *(item for extra in EXTRAS.values() for item in extra)]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    tested = machine.tested_versions()
    refused = [
        f"{item}, tested {tested[requirement.name]}"
        for item in [*listed, *build]
        if (requirement := Requirement(item)).name in tested
        and not requirement.specifier.contains(tested[requirement.name])
    ]
    assert refused == []
    assert PROJECT["version"] == hbt_dist.__version__
    assert PROJECT["requires-python"] == f">={PYTHON}"


def test_images_of_ray_have_the_tested_version() -> None:
    images = [
        image
        for file in (ROOT / "ray_configs").glob("*.yaml")
        for image in re.findall(r"image: (rayproject/ray:\S+)", file.read_text("utf-8"))
    ]
    assert images
    assert {image.partition(":")[2].split("-")[0] for image in images} == {machine.tested_versions()["ray"]}


def test_the_page_lists_the_extras() -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(EXTRAS)
    named = {extra for group in re.findall(r"(?:\.|\.whl)\[([\w,-]+)\]", page) for extra in group.split(",")}
    assert named <= set(EXTRAS)
    assert f"hbt_dist-{hbt_dist.__version__}-py3-none-any.whl" in page
