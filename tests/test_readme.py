"""Run every command of the README: in its order with small sizes, or in the test that COVERED names.

A new command in the README fails `test_every_command_is_covered` until COVERED names its test.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.analysis.made_search import write_search
from tests.helpers.ranks import ROOT
from tests.helpers.runs import BIN, finish, losses, start

README = (ROOT / "README.md").read_text("utf-8")
#: Its commands run behind those of the README, in the same folder.
OWN_DATA = (ROOT / "docs" / "own_data.md").read_text("utf-8")
IN_ORDER = "tests/test_readme.py::test_commands_in_their_order"
QUICKSTART = "tests/test_quickstart.py::test_training_pays_in_every_setting"
REAL_DATA = "tests/test_real_data.py::test_xquad_r_is_an_eleven_by_eleven_matrix"
LAUNCHERS = "tests/training/test_launchers.py::test_launchers_agree"
SEARCH = "tests/orchestration/test_tune.py::test_a_search_survives_its_driver_and_a_worker_and_leaves_nothing"
COVERED = {
    "./launchers/quickstart.sh": QUICKSTART,
    "./launchers/test.sh": ".ci/run",
    ". .venv/bin/activate": IN_ORDER,
    "hbt-dist files --to .": "tests/cli/test_files.py::test_copies_are_files_of_their_own",
    "hbt-dist doctor": "tests/doctor/test_doctor.py::test_the_command_on_this_machine",
    "hbt-dist init --data train.jsonl --benchmark my_benchmark --to run.yaml": IN_ORDER,
    "hbt-dist data inspect run.yaml --step 0": IN_ORDER,
    "hbt-dist train run.yaml": IN_ORDER,
    "hbt-dist train run.yaml batches.alpha=0.25 output_dir=runs/quarter": IN_ORDER,
    "hbt-dist compare --baseline runs/mine runs/quarter": IN_ORDER,
    "hbt-dist mine run.yaml model.name_or_path=runs/mine/model mining.count=4 output_dir=mined": (
        "tests/jobs/test_mine_faults.py::test_mined_negatives_are_inspected_and_trained_on"
    ),
    "hbt-dist train run.yaml workers.num_workers=8": LAUNCHERS,
    "ray submit ray_configs/on_premises.yaml launchers/train.py -- run.yaml": (
        "tests/multihost/test_multihost.py::test_ray_submit_trains_and_evaluates_on_several_hosts"
    ),
    "ray job submit --working-dir . -- python launchers/train.py run.yaml": (
        "tests/orchestration/test_jobs.py::test_a_stopped_job_continues"
    ),
    "deepspeed --no_local_rank --num_gpus 2 launchers/train.py run.yaml": LAUNCHERS,
    "torchrun --nproc_per_node 2 launchers/train.py run.yaml": LAUNCHERS,
    "accelerate launch --num_processes 2 launchers/train.py run.yaml": LAUNCHERS,
    "hbt-dist train run.yaml --launcher local": "tests/test_wheel.py::test_train_and_evaluate",
    "hbt-dist train decoder_lora --dry-run": (
        "tests/jobs/test_memory.py::test_the_run_file_under_zero_3_and_zero_2"
    ),
    "hbt-dist evaluate --model runs/mine/model --benchmark my_benchmark --output results/mine": IN_ORDER,
    "hbt-dist evaluate --model runs/mine/model --benchmark xquad-r --data-dir DATA/xquad-r "
    "--output results/xquad-r": REAL_DATA,
    "hbt-dist evaluate --model sentence-transformers/LaBSE --benchmark mlqa-r --variant sentence+context "
    "--data-dir DATA/mlqa-r --output results/labse-mlqa-r": (
        "tests/evaluation/test_real_model.py::test_xquad_r_cells_equal_sentence_transformers_and_pytrec_eval"
    ),
    "hbt-dist compare --baseline results/a results/b": IN_ORDER,
    "hbt-dist report results/b --baseline results/a": IN_ORDER,
    "hbt-dist search ray_configs/search/alpha.yaml --dry-run": (
        "tests/search/test_settings.py::test_shipped_searches_are_sound"
    ),
    "hbt-dist search ray_configs/search/alpha.yaml": SEARCH,
    "hbt-dist report searches/alpha": IN_ORDER,
    "hbt-dist train searches/alpha/report/best.yaml": (
        "tests/reports/test_search_page.py::test_best_run_is_the_knee_and_loads"
    ),
    "hbt-dist study ray_configs/studies/methods.yaml --dry-run": (
        "tests/study/test_study.py::test_shipped_studies_resolve_without_their_data"
    ),
    "hbt-dist study ray_configs/studies/methods.yaml": "tests/study/test_study.py::test_a_whole_study",
    "hbt-dist train squad_en_fi": REAL_DATA,
    "python -m mkdocs serve": "tests/test_docs.py::test_docs_build_strictly_and_list_every_key",
    "python benchmarks/gpu/check.py": (
        "tests/benchmarks/test_gpu_check.py::test_probe_and_products_need_torch_alone"
    ),
}
#: Instead of XLM-R base and 2,000 steps of 256 rows.
SMALL: dict[str, Any] = {
    "model": {
        "scratch": {
            "vocabulary_size": 300,
            "architecture": {
                "model_type": "bert",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
        }
    },
    "batches": {"global_batch_size": 8},
    "training": {"steps": 4, "checkpoint_every": 2, "threads_per_worker": 1, "trackers": []},
}


def blocks(language: str, page: str = README) -> list[str]:
    """The contents of a page's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: str = README) -> list[str]:
    """Return all commands without comments: first of the blocks in order, then of sentences and tables."""
    lines_and_codes = []
    for block in blocks("bash", page):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        lines_and_codes += [re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in lines]
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    program = re.compile(
        r"(?:\./launchers/|hbt-dist \S+ |ray |deepspeed --|torchrun |accelerate |pip |python )"
    )
    lines_and_codes += [code for code in re.findall(r"`([^`]+)`", outside) if program.match(code)]
    return list(dict.fromkeys(command for command in lines_and_codes if command))


def test_every_command_is_covered() -> None:
    missing = [command for command in commands() if command not in COVERED]
    assert missing == [], "name their tests in COVERED"
    assert [command for command in COVERED if command not in commands()] == [], "no longer in the README"


def test_the_named_tests_exist() -> None:
    for where in set(COVERED.values()):
        file, _, name = where.partition("::")
        assert (ROOT / file).is_file(), where
        if name:
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, where
    assert "launchers/test.sh" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_python_example_runs(tmp_path: Path) -> None:
    write_search(tmp_path / "searches" / "alpha")
    (example,) = blocks("python")
    done = subprocess.run(
        [BIN / "python", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "monolingual" in done.stdout


def given_files(work: Path) -> None:
    """Write what a reader has before the first command: environment, data, and the README's run file."""
    (work / ".venv").symlink_to(BIN.parent)
    example, benchmark = blocks("json")
    (work / "my_benchmark").mkdir()
    question, candidate = benchmark.splitlines()
    (work / "my_benchmark" / "questions.jsonl").write_text(question + "\n", encoding="utf-8")
    (work / "my_benchmark" / "candidates.jsonl").write_text(candidate + "\n", encoding="utf-8")
    rows = [
        json.dumps(
            {
                "id": f"e{i}",
                "question": {"en": f"Where is town {i}?", "fi": f"Missä kaupunki {i} on?"},
                "passage": {"en": f"Town {i} is in land {i % 7}.", "fi": f"Kaupunki {i} on maassa {i % 7}."},
            }
        )
        for i in range(40)
    ]
    (work / "train.jsonl").write_text(example + "\n".join(rows) + "\n", encoding="utf-8")
    write_search(work / "searches" / "alpha")


def small_run(work: Path) -> None:
    """Replace the run file that `init` wrote by the README's, with small sizes."""
    written = yaml.safe_load((work / "run.yaml").read_text("utf-8"))
    run = next(yaml.safe_load(block) for block in blocks("yaml") if block.startswith("name: mine"))
    assert written.keys() >= run.keys()
    text = run["model"]["text"]
    for key, value in SMALL.items():
        run[key] = {**run.get(key, {}), **value}
    run["model"] = {**SMALL["model"], "text": text}
    run["workers"]["address"] = "local"
    (work / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_commands_in_their_order(tmp_path: Path) -> None:
    given_files(tmp_path)
    output = {}
    ordered = [command for command in commands() if COVERED.get(command) == IN_ORDER]
    pages = [command for command in commands(OWN_DATA) if command.startswith("hbt-dist ")]
    further = [command for command in pages if command not in COVERED]
    assert len(further) < len(pages)
    for command in [*ordered, *further]:
        if command == "hbt-dist compare --baseline results/a results/b":
            for name, model in (("a", "mine"), ("b", "quarter")):
                sample = f"--benchmark sample --languages en,fi --output results/{name}"
                shell(f"hbt-dist evaluate --model runs/{model}/model {sample}", tmp_path)
        output[command] = shell(command, tmp_path)
        if command.startswith("hbt-dist init"):
            small_run(tmp_path)
    assert "Missä" in output["hbt-dist data inspect run.yaml --step 0"]
    assert len(losses(tmp_path / "runs" / "mine")) == len(losses(tmp_path / "runs" / "quarter")) == 4
    assert (tmp_path / "searches" / "alpha" / "report" / "best.yaml").is_file()
    for page in (
        "results/mine/report.html",
        "runs/mine/evaluation/end/my_benchmark/report.html",
        "compared/report.html",
    ):
        assert (tmp_path / page).is_file()
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def shell(command: str, work: Path) -> str:
    """Return the output of a command in a shell with the activated environment."""
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PATH": os.defpath}
    code, out, err = finish(start(["bash", "-c", f". .venv/bin/activate\n{command}"], work, **environment))
    assert code == 0, f"{command}\n{out[-2000:]}\n{err[-3000:]}"
    assert "Traceback" not in err, err[-3000:]
    return out
