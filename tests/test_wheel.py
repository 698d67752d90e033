"""The wheel, installed into a fresh environment elsewhere, does what the checkout does.

These are the steps of .github/workflows/release.yml: source archive, wheel from it, `twine check`,
installation, version, doctor, training. The environment sees the packages that are installed here, but not
the checkout, so nothing is fetched.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.ranks import ROOT
from tests.helpers.runs import run_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What the build reads.
SOURCES = ("hbt_dist", "deepspeed_configs", "ray_configs")
FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
SMALL = (
    "training.steps=2",
    "training.checkpoint_every=2",
    "training.trackers=[]",
    "batches.global_batch_size=16",
    "evaluation.when=[]",
    "data.sources.0.languages=[en,fi]",
)


@dataclass(frozen=True)
class Installed:
    """A folder that is no checkout, and the command that was installed."""

    folder: Path
    bin: Path
    wheel: Path
    archive: Path

    def run(self, *arguments: str | Path) -> str:
        """What the command prints; it must succeed without a traceback."""
        code, out, err = run_command(
            [self.bin / "hbt-dist", *arguments], self.folder, timeout=400, PYTHONPATH=""
        )
        assert code == 0, out[-2000:] + err[-3000:]
        assert "Traceback" not in err, err[-3000:]
        return out


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    for name in SOURCES:
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,), (archive,) = work.glob("*.whl"), work.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    environment = work / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    # A .pth file adds a folder to the path; .pth files in that folder, such as the checkout's, are not read.
    site = next((environment / "lib").glob("python*")) / "site-packages"
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True, timeout=300)
    folder = work / "elsewhere"
    folder.mkdir()
    return Installed(folder, environment / "bin", wheel, archive)


def test_it_is_the_wheel_that_runs(installed: Installed) -> None:
    where = subprocess.run(
        [installed.bin / "python", "-c", "import hbt_dist; print(hbt_dist.__file__)"],
        cwd=installed.folder,
        env={"PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.bin.parent)


def test_metadata_and_version(installed: Installed) -> None:
    check = [sys.executable, "-m", "twine", "check", "--strict", str(installed.wheel), str(installed.archive)]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    assert installed.run("--version").strip() == installed.wheel.name.split("-")[1]


def test_it_holds_every_file_of_the_package(installed: Installed) -> None:
    inside = set(zipfile.ZipFile(installed.wheel).namelist())
    kinds = ("*.py", "*.yaml", "*.json", "*.csv", "*.txt", "*.html", "*.css", "*.js", "py.typed")
    wanted = {
        f"hbt_dist/{path.relative_to(ROOT / 'hbt_dist')}"
        for kind in kinds
        for path in (ROOT / "hbt_dist").rglob(kind)
    }
    for folder in ("deepspeed_configs", "ray_configs"):
        wanted |= {
            f"hbt_dist/{path.relative_to(ROOT)}"
            for kind in ("*.yaml", "*.json")
            for path in (ROOT / folder).rglob(kind)
        }
    assert len(wanted) > 200
    assert sorted(wanted - inside) == []


def test_doctor_finds_no_problem(installed: Installed) -> None:
    answer = json.loads(installed.run("doctor", "--json"))
    assert answer["problem"] == 0


def test_train_and_evaluate(installed: Installed) -> None:
    settings = (*SMALL, "deepspeed.config=zero1", "output_dir=runs/out")
    installed.run("train", "quickstart", "--launcher", "local", *settings)
    model = installed.folder / "runs" / "out" / "model"
    results = installed.folder / "results"
    sample = ("--benchmark", "sample", "--languages", "en,fi")
    answer = json.loads(installed.run("evaluate", "--model", model, *sample, "--output", results, "--json"))
    assert 0 < answer["means"]["monolingual"]["macro"]["map"] < 1
    assert (results / "pair_matrix.csv").is_file()


def test_configurations_can_be_reached_and_used(installed: Installed) -> None:
    installed.run("files", "--to", "mine")
    mine = installed.folder / "mine"
    for folder in ("deepspeed_configs", "ray_configs"):
        there = {path.relative_to(mine) for path in (mine / folder).rglob("*") if path.is_file()}
        assert there >= {
            path.relative_to(ROOT) for kind in ("*.yaml", "*.json") for path in (ROOT / folder).rglob(kind)
        }
    assert "searches/alpha" in installed.run("search", "mine/ray_configs/search/alpha.yaml", "--dry-run")
    assert str(installed.bin.parent) in installed.run("files")
