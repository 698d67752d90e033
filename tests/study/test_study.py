"""Study files, and a whole small study: trained with Ray, measured, compared, reported, continued."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from transformers import BertConfig, XLMRobertaConfig

from hbt_dist.common.errors import UserError
from hbt_dist.common.numbers import plain
from hbt_dist.config.settings import set_value
from hbt_dist.data.benchmarks.load import check_benchmarks
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.read_results import BLOCKS, SCHEMA
from hbt_dist.jobs import dry_run
from hbt_dist.jobs.study import _evaluate_missing, _evaluate_starts, _identity, check_bases, study_job
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.study.study import Study, StudySource, trials_of
from tests.helpers.runs import hbt_dist

ROOT = Path(__file__).resolve().parents[2]


def write_study(folder: Path, **changes: Any) -> Path:
    run = yaml.safe_load((ROOT / "hbt_dist" / "run_files" / "quickstart.yaml").read_text("utf-8"))
    run["data"]["cache_dir"] = str(folder / "cache")
    run["batches"]["global_batch_size"] = 32
    run["model"]["scratch"]["vocabulary_size"] = 1500
    run["model"]["scratch"]["architecture"] |= {"hidden_size": 32, "intermediate_size": 64}
    run["training"] = {"steps": 12, "checkpoint_every": 12, "trackers": [], "threads_per_worker": 1}
    run["workers"] = {"num_workers": 1, "address": "local"}
    (folder / "base.yaml").write_text(yaml.safe_dump(run), "utf-8")
    study = {
        "name": "tiny",
        "output_dir": str(folder / "study"),
        "question": "Does it hold together?",
        "run": str(folder / "base.yaml"),
        "methods": {
            "multilingual": {"about": "all monolingual", "overrides": {"batches.alpha": 1.0}},
            "hybrid": {"overrides": {"batches.alpha": 0.5}},
            "hybrid-lir": {"trained_as": "hybrid", "scoring": {"language_removal": "lir"}},
        },
        "baseline": "multilingual",
        "seeds": [0, 1],
        "max_concurrent": 2,
        "benchmarks": [{"name": "sample", "variant": "test", "languages": ["en", "de", "fi", "hu", "et"]}],
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), "utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": "none"}, "none of the methods"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"benchmarks": []}, "benchmarks"),
        ({"methods": {"multilingual": {}}}, "methods"),
        ({"methods": {"multilingual": {}, "b": {"trained_as": "c"}}}, "not a method that trains"),
        (
            {"methods": {"multilingual": {}, "b": {"trained_as": "multilingual", "run": "x"}}},
            "trains nothing",
        ),
        ({"methods": {"multilingual": {}, "b": {"overrides": {"batches.alhpa": 1}}}}, "unknown key"),
        ({"methods": {"multilingual": {}, "b": {"overrides": {"batches.alpha": 2}}}}, "less than or equal"),
        ({"methods": {"multilingual": {}, "b": {"scoring": {"odd": 1}}}}, "odd"),
        ({"run": "nowhere"}, "no such run file"),
        ({"methods": {"multilingual": {}, "b": {"against": ["c"]}}}, "against 'c' is not another method"),
        ({"methods": {"multilingual": {}, "b": {"against": ["b"]}}}, "against 'b' is not another method"),
        ({"primary": [{"method": "none"}]}, "primary: 'none' is none of the methods"),
        ({"primary": [{"method": "hybrid", "against": "hybrid-lir"}]}, "none of the contrasts"),
        ({"primary": [{"method": "hybrid", "setting": "one_target"}]}, "setting"),
        ({"later_benchmarks": [{"name": "sample", "variant": "test"}]}, "one label, 'sample-test'"),
        (
            {"benchmarks": [{"name": "sample", "languages": [code]} for code in ("en", "fi")]},
            "label: sample-2",
        ),
    ],
)
def test_refused_with_one_message(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as refused:
        Study.load(str(write_study(tmp_path, **changes)))
    assert expected in str(refused.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "file", sorted((ROOT / "ray_configs" / "studies").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_studies_resolve_without_their_data(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = dry_run.describe_study(Study.load(str(file)))
    assert "GPU hours" in text or "time is not estimated" in text
    assert "0.00 h" not in text
    assert "unknown" not in text


def test_a_dry_run_looks_for_the_models(tmp_path: Path) -> None:
    path = write_study(tmp_path, overrides=["model={name_or_path: ./absent}"])
    with pytest.raises(UserError, match=r"model\.name_or_path \./absent: no such model folder"):
        study_job(str(path), dry_run=True)


def test_a_private_cluster_on_a_machine_without_a_gpu_gets_no_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, overrides=["workers.use_gpu=auto"])
    monkeypatch.setattr(dry_run.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dry_run, "find_cluster", lambda workers: "192.0.2.1:6379")
    assert "GPU hours" in dry_run.describe_study(Study.load(str(path)))
    monkeypatch.setattr(dry_run, "find_cluster", lambda workers: None)
    assert "GPU hours" not in dry_run.describe_study(Study.load(str(path)))


def test_a_cpu_gets_no_hours(tmp_path: Path) -> None:
    """What is known is said: steps, rows, tokens."""
    path = write_study(tmp_path, overrides=["workers.use_gpu=false", "model.text.max_question_tokens=20"])
    text = dry_run.describe_study(Study.load(str(path)))
    passages = Study.load(str(path)).runs["hybrid"].model.text.get("max_passage_tokens", 256)
    tokens = 12 * 32 * (20 + passages)
    trained = [line for line in text.splitlines() if line.startswith(("  hybrid:", "  multilingual:"))]
    assert len(trained) == 2
    for line in trained:
        assert f"12 steps x 32 rows, at most {tokens:,} tokens" in line
        assert line.endswith("time on a CPU not estimated")
    assert f"at most {4 * tokens:,} tokens of training on a CPU, whose time is not estimated" in text
    assert "GPU" not in text
    text = dry_run.describe_study(Study.load(str(write_study(tmp_path, overrides=["workers.use_gpu=true"]))))
    assert "less than 0.01 h a seed" in text
    assert "less than 0.01 GPU hours of training" in text


def test_the_file_of_deepspeed_may_leave_clipping_to_the_run(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}), "utf-8")
    clipped = [f"deepspeed.config={file}", "optimizer.gradient_clipping=1.0"]
    assert "states" in dry_run.describe_study(Study.load(str(write_study(tmp_path, overrides=clipped))))
    with pytest.raises(UserError, match="gradient_clipping"):
        dry_run.describe_study(Study.load(str(write_study(tmp_path, overrides=clipped[:1]))))


def begun(study: Study) -> list[Trial]:
    """The first seed's trainings, as they are once they have a step behind them."""
    folder = SearchFolder(Path(study.file.output_dir))
    folder.open(_identity(study.file), {})
    try:
        source = StudySource(study, folder)
        trials = [trial for _ in study.bases if (trial := source.next()) is not None]
    finally:
        folder.close()
    for trial in trials:
        (trial.folder / "run").mkdir()
        (trial.folder / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n', "utf-8")
    return trials


def test_a_study_is_not_continued_over_another_base_run(tmp_path: Path) -> None:
    """The same file name, edited meanwhile: seeds of two runs would be averaged."""
    path, base = str(write_study(tmp_path)), tmp_path / "base.yaml"
    trials = begun(Study.load(path))
    run = yaml.safe_load(base.read_text("utf-8"))

    def again(**changes: Any) -> Study:
        edited = copy.deepcopy(run)
        for key, value in changes.items():
            set_value(edited, key.replace("__", "."), value, "here")
        base.write_text(yaml.safe_dump(edited), "utf-8")
        study = Study.load(path)
        check_bases(study, SearchFolder(Path(study.file.output_dir)))
        return study

    again()
    again(  # none of these changes a figure
        workers__num_workers=2,
        training__checkpoint_every=3,
        evaluation__scoring={"num_threads": 1},
        data__cache_dir=str(tmp_path / "elsewhere"),
    )
    for changes, found in (
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate: .* there, 0.5 now"),
        ({"training__steps": 13}, "training.steps: 12 there, 13 now"),
        ({"evaluation__scoring": {"dtype": "bfloat16"}}, "evaluation.scoring.dtype"),
    ):
        with pytest.raises(
            UserError, match=f"multilingual with seed 0 was trained from another run .{found}"
        ):
            again(**changes)
    with pytest.raises(UserError, match=r"undo the change of .*base\.yaml"):
        study_job(path, dry_run=True)
    for trial in trials:  # what failed before its first step, or was removed, cannot be mixed up
        shutil.rmtree(trial.folder / "run")
    study_job(path, dry_run=True)
    begun(Study.load(path))
    with pytest.raises(UserError, match=r"evaluation\.scoring\.dtype: bfloat16 there, auto now"):
        again()


def test_contrasts_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Study.load(str(write_study(tmp_path))).file
    assert plain.contrasts() == [("hybrid", "multilingual"), ("hybrid-lir", "multilingual")]
    assert plain.primaries() == [("hybrid", "multilingual", "crosslingual")]
    other = {"multilingual": {}, "first": {}, "second": {"against": ["first"]}}
    file = Study.load(str(write_study(tmp_path, methods=other))).file
    assert file.contrasts() == [("first", "multilingual"), ("second", "first")]
    assert file.primaries() == [("first", "multilingual", "crosslingual")]
    stated = [{"method": "second", "setting": "multilingual"}]
    file = Study.load(str(write_study(tmp_path, methods=other, primary=stated))).file
    assert file.primaries() == [("second", "first", "multilingual")]
    monkeypatch.chdir(ROOT)
    paper = Study.load("ray_configs/studies/paper.yaml").file
    assert ("labse-hybrid", "labse-multilingual", "crosslingual") in paper.primaries()
    assert ("labse-hybrid", "xlmr-multilingual") not in paper.contrasts()


def test_what_the_report_compares_does_not_make_another_study(tmp_path: Path) -> None:
    """A folder that was made without references and primary contrasts is continued with them."""
    plain = Study.load(str(write_study(tmp_path))).file
    methods = plain.model_dump(mode="json")["methods"]
    methods["hybrid-lir"]["against"] = ["hybrid"]
    told = Study.load(str(write_study(tmp_path, methods=methods, primary=[{"method": "hybrid"}]))).file
    assert _identity(told) == _identity(plain)
    assert "against" not in str(_identity(plain))


def test_an_evaluation_on_another_version_of_a_benchmark_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [{"name": "sample", "variant": "dev", "languages": ["en", "hu"]}]
    study = Study.load(str(write_study(tmp_path, later_benchmarks=later, seeds=[0])))
    folder = SearchFolder(Path(study.file.output_dir))
    (folder.root / "trials").mkdir(parents=True)
    StudySource(study, folder)
    fingerprints = check_benchmarks(study.file.all_benchmarks())
    made: list[Path] = []

    def evaluate(model: Path, benchmark: BenchmarkSettings, out: Path, **_: Any) -> None:
        made.append(out)
        write_results(out, fingerprints[benchmark.label])

    def write_results(out: Path, fingerprint: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {block: dict.fromkeys(keys) for block, keys in BLOCKS.items()}
        results |= {"schema": SCHEMA, "schema_version": 1}
        results["benchmark"]["fingerprint"] = fingerprint
        (out / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr("hbt_dist.evaluation.run.score_model", evaluate)
    trials = [trial for group in trials_of(study.file, folder).values() for trial in group]
    for trial in trials:
        (trial.folder / "run" / "model").mkdir(parents=True)
        write_results(trial.folder / "evaluation" / "final" / "sample-test", fingerprints["sample-test"])
    _evaluate_missing(study, folder, fingerprints, lambda _: None)
    assert len(made) == 4  # two methods on the later benchmark, hybrid-lir on both
    made.clear()
    _evaluate_missing(study, folder, fingerprints, lambda _: None)
    assert made == []
    said: list[str] = []
    _evaluate_missing(study, folder, {**fingerprints, "sample-dev": "0" * 64}, said.append)
    assert {place.name for place in made} == {"sample-dev"}
    assert len(made) == 3
    assert "have changed" in said[0]
    shutil.rmtree(trials[0].folder / "run" / "model")
    with pytest.raises(UserError, match="another version"):
        _evaluate_missing(study, folder, {**fingerprints, "sample-test": "0" * 64}, said.append)


def test_a_start_model_is_evaluated_once_for_all_methods_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {
        "multilingual": {},
        "hybrid": {},
        "wide": {"overrides": {"model.scratch.vocabulary_size": 999}},
    }
    study = Study.load(str(write_study(tmp_path, methods=methods)))
    folder = SearchFolder(Path(study.file.output_dir))
    (folder.root / "trials").mkdir(parents=True)
    StudySource(study, folder)
    measured: list[tuple[Path, Path]] = []

    def measure(run: Any, model: Path, benchmark: BenchmarkSettings, out: Path) -> None:
        if "p0002" in str(model):
            raise UserError(str(model), "no such model folder", "")
        measured.append((model.relative_to(folder.root), out.relative_to(folder.root)))

    monkeypatch.setattr("hbt_dist.training.checkpoints.measure.measure_model", measure)
    said: list[str] = []
    _evaluate_starts(study, folder, check_benchmarks(study.file.all_benchmarks()), said.append)
    assert measured == [(Path("trials/p0000-s0/run/start"), Path("start/multilingual/sample-test"))]
    assert said[0] == "evaluate before training: sample-test"
    assert said[-1].startswith("the report has no figures before training: ")


def test_known_backbones_have_the_size_of_their_configuration() -> None:
    base = XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1)
    whole, working = dry_run._count(base)
    assert dry_run._KNOWN["FacebookAI/xlm-roberta-base"] == (whole, whole - working)
    large = XLMRobertaConfig(
        vocab_size=250002,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    whole, working = dry_run._count(large)
    assert dry_run._KNOWN["FacebookAI/xlm-roberta-large"] == (whole, whole - working)
    whole, working = dry_run._count(BertConfig(vocab_size=501153))
    assert dry_run._KNOWN["sentence-transformers/LaBSE"] == (whole, whole - working)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path)
    code, out, err = hbt_dist("study", str(path), cwd=tmp_path, timeout=800)
    assert code == 0, err[-3000:]
    assert "0 examples that repeat a benchmark" in out
    report = tmp_path / "study" / "report"
    text = (report / "study.md").read_text("utf-8")
    for part in (
        "4 of 4 trainings ended",
        "| before training | - | 0.",
        "| start model | random weights |",
        "| steps | 12 |",
        "Uralic -> Uralic",
        "hybrid-lir",
        "## Answer",
        "over seeds",
        "multilingual mAP",
    ):
        assert part in text, part
    assert text.count("|") > 50
    page = (report / "study.html").read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<img alt=") + page.count('class="matrix"') == text.count("![")

    # The report's numbers are those of the result files.
    seeds = pd.read_csv(report / "tables" / "sample-test_seeds.csv")
    assert len(seeds) == 6
    for row in seeds.to_dict("records"):
        results = json.loads((tmp_path / "study" / row["folder"] / "results.json").read_text("utf-8"))
        assert row["crosslingual"] == results["means"]["crosslingual"]["macro"]["map"]
    summary = pd.read_csv(report / "tables" / "sample-test_summary.csv").set_index("method")
    hybrid = seeds[seeds.method == "hybrid"]["crosslingual"]
    assert summary.loc["hybrid", "crosslingual"] == pytest.approx(hybrid.mean())
    assert f"{plain(hybrid.mean())} ({plain(hybrid.std())})" in text

    # A seed that is trained again gives the same digits, and what was there is kept.
    before = pd.read_csv(report / "tables" / "sample-test_seeds.csv")
    shutil.rmtree(tmp_path / "study" / "trials" / "p0001-s1")
    code, out, err = hbt_dist("study", str(path), cwd=tmp_path, timeout=800)
    assert code == 0, err[-3000:]
    assert "1 trials to run" in out
    pd.testing.assert_frame_equal(before, pd.read_csv(report / "tables" / "sample-test_seeds.csv"))

    # A benchmark that is added later is measured on the models there are.
    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("study/trials/*/run/model/*")}
    later = [{"name": "sample", "variant": "dev", "languages": ["en", "hu"]}]
    study_job(str(write_study(tmp_path, later_benchmarks=later)), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert len(pd.read_csv(report / "tables" / "sample-dev_seeds.csv")) == 6
    text = (report / "study.md").read_text("utf-8")
    assert "sample-dev was added after the training: no training text repeats it" in text
    pd.testing.assert_frame_equal(before, pd.read_csv(report / "tables" / "sample-test_seeds.csv"))

    with pytest.raises(UserError, match=r"another study \(seeds\.1: 1 there, 2 now"):
        study_job(str(write_study(tmp_path, seeds=[0, 2])))


@pytest.mark.slow
def test_the_shipped_method_with_a_teacher(tmp_path: Path) -> None:
    """A missing teacher is refused at once; then the method trains towards it, in two stages."""
    shipped = yaml.safe_load((ROOT / "ray_configs" / "studies" / "mimo.yaml").read_text("utf-8"))
    methods = {name: shipped["methods"][name] for name in ("x-y", "mimo")}
    overrides = methods["mimo"]["overrides"]
    overrides["teachers.english.name_or_path"] = str(tmp_path / "teacher" / "model")
    overrides["loss.targets.weight"]["values"] = {0: 1.0, 6: 0.8}
    overrides["loss.info_nce_weight"]["values"] = {0: 0.0, 6: 0.2}
    methods["mimo"]["against"] = ["x-y"]
    path = write_study(tmp_path, methods=methods, baseline="x-y", seeds=[0])
    with pytest.raises(UserError, match=r"teachers\.english\.name_or_path.*teacher/model: no such model"):
        study_job(str(path), quiet=True)
    train = ("train", "--launcher", "local", "--quiet")
    english = ["batches.alpha=1.0", "batches.languages={en: 1}", f"output_dir={tmp_path / 'teacher'}"]
    code, _, err = hbt_dist(*train, "base.yaml", *english, "evaluation.when=[]", cwd=tmp_path, timeout=100)
    assert code == 0, err[-3000:]
    run = Study.load(str(path)).runs["mimo"].plain() | {"output_dir": str(tmp_path / "out")}
    (tmp_path / "mimo.yaml").write_text(yaml.safe_dump(run), "utf-8")
    code, _, err = hbt_dist(*train, "mimo.yaml", "evaluation.when=[]", cwd=tmp_path, timeout=100)
    assert code == 0, err[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert steps[0]["loss"] == pytest.approx(steps[0]["targets"])
    assert steps[-1]["loss"] == pytest.approx(0.8 * steps[-1]["targets"] + 0.2 * steps[-1]["info_nce"])
    assert steps[-1]["targets"] < steps[0]["targets"]
    assert {row["kind"] for row in steps} == {"crosslingual"}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_language_subsets_of_one_benchmark(tmp_path: Path) -> None:
    """Under two labels: two results of every training, two parts of the report."""
    subsets = {"near": ["fi", "et", "hu"], "far": ["en", "hu"]}
    benchmarks = [
        {"name": "sample", "variant": "test", "languages": languages, "label": label}
        for label, languages in subsets.items()
    ]
    later = [{"name": "sample", "variant": "test", "languages": ["de", "en"]}]
    path = write_study(tmp_path, benchmarks=benchmarks, later_benchmarks=later, seeds=[0])
    code, _, err = hbt_dist("study", str(path), cwd=tmp_path, timeout=800)
    assert code == 0, err[-3000:]
    subsets["sample-test"] = ["de", "en"]
    report = tmp_path / "study" / "report"
    text = (report / "study.md").read_text("utf-8")
    for label, languages in subsets.items():
        rows = pd.read_csv(report / "tables" / f"{label}_seeds.csv")
        assert set(rows.method) == {"multilingual", "hybrid", "hybrid-lir"}
        for row in rows.to_dict("records"):
            assert Path(row["folder"]).name == label
            results = json.loads((tmp_path / "study" / row["folder"] / "results.json").read_text("utf-8"))
            assert sorted(results["benchmark"]["languages"]) == sorted(languages)
        assert f"## {label}" in text
