"""Compare XQuAD-R from given embeddings with a plain loop, MTEB's evaluator, pytrec_eval and ranx.

    python benchmarks/evaluation/xquad_r.py --data-dir ../shared/data/xquad-r

Ours: pair matrix, pooled one-target matrix, multilingual pool and language bias of 13,090 questions against
13,014 candidates, width 384, random vectors and the real relevance. The others: the mAP of the same three
settings from full rankings, on the first `--sample` questions of each language, scaled up. Neither bias
measures nor their matrix product count in their time. MTEB has no setting that leaves other translations of
the answer out of the pool, keeps the first 1,000 of each ranking, and computes its other metrics on the way.
A tool that is not installed (`pip install mteb ranx`) is left out. Writes benchmarks/results/xquad_r.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings


def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=20, help="questions per language for the other tools")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "xquad_r.json")
    asked = parser.parse_args()
    benchmark = load_benchmark("xquad-r", asked.data_dir, variant="sentence")
    rng = np.random.default_rng(0)
    questions = rng.standard_normal((benchmark.num_questions, 384), dtype=np.float32)
    candidates = rng.standard_normal((benchmark.num_candidates, 384), dtype=np.float32)
    runs = []
    for shards in (1, 7):
        settings = EvaluationSettings(device="cpu", num_shards=shards)
        evaluation, wall, cpu = timed(
            lambda s=settings: evaluate(benchmark, questions, candidates, settings=s)
        )
        runs.append(
            {
                "tool": "hbt_dist",
                "what": "pair matrix, one-target matrix, multilingual pool, bias, consistency of 100 ids",
                "shards": shards,
                "questions": benchmark.num_questions,
                "seconds": round(wall, 2),
                "cpu_seconds": round(cpu, 2),
                "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
                "map": evaluation.means["multilingual"]["micro"]["map"],
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    per_language = benchmark.num_questions // len(benchmark.languages)
    rows = np.flatnonzero(np.arange(benchmark.num_questions) % per_language < asked.sample)
    scores = questions[rows] @ candidates.T
    settings = {
        setting: range(len(benchmark.languages)) if setting != "multilingual" else (-1,)
        for setting in evaluation.tables
    }
    vectors = questions[rows], candidates
    scale = (benchmark.num_questions - 1) / (len(rows) - 1)  # of what a question costs; the rest is paid once
    for name, judge, judged in (
        ("plain loop", with_a_loop, settings),
        ("pytrec_eval", with_pytrec_eval, settings),
        ("ranx", with_ranx, settings),
        ("mteb", with_mteb, {name: settings[name] for name in ("pair", "multilingual")}),
    ):
        if name != "plain loop" and find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        judge(benchmark, scores[:1], rows[:1], "pair", 0, vectors)  # imports; ranx compiles itself
        cpu, wall, worst = 0.0, 0.0, 0.0
        for setting, targets in judged.items():
            table = evaluation.tables[setting]
            for target in targets:
                call = partial(judge, benchmark, setting=setting, target=target, vectors=vectors)
                _, *once = timed(partial(call, scores[:1], rows[:1]))
                value, *times = timed(partial(call, scores, rows))
                wall, cpu = (
                    total + first + (last - first) * scale
                    for total, first, last in zip((wall, cpu), once, times, strict=True)
                )
                mine = np.isin(table.question, rows) & (table.candidate_language == target)
                worst = max(worst, abs(value - table.values["map"][mine].mean()))
        runs.append(
            {
                "tool": name,
                "what": ", ".join(judged),
                "questions": len(rows),
                "seconds_for_all_questions": round(wall, 1),
                "cpu_seconds_for_all_questions": round(cpu, 1),
                "times_our_cpu_seconds": round(cpu / runs[0]["cpu_seconds"], 1),
                "largest_difference_in_map": worst,
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    document = {
        "machine": f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}",
        "load_average": os.getloadavg(),
        "runs": runs,
    }
    asked.out.write_text(json.dumps(document, indent=1) + "\n")


def asked_of(benchmark, row, setting, target):
    """Columns of the candidates and of the relevant ones among them."""
    language = benchmark.candidate_language
    relevant, kept = benchmark.relevant_of(row), np.ones(len(language), bool)
    if setting == "pair":
        kept = language == target
    elif setting == "one_target":
        kept[relevant[language[relevant] != target]] = False
    if setting != "multilingual":
        relevant = relevant[language[relevant] == target]
    return np.flatnonzero(kept), relevant


def rankings(benchmark, scores, rows, setting, target):
    """qrels and full run of a setting, as dictionaries."""
    qrels, run = {}, {}
    for row, line in zip(rows.tolist(), scores, strict=True):
        kept, relevant = asked_of(benchmark, row, setting, target)
        columns = kept.tolist()
        ids = [benchmark.candidate_ids[column] for column in columns]
        run[str(row)] = dict(zip(ids, line[columns].tolist(), strict=True))
        qrels[str(row)] = {benchmark.candidate_ids[column]: 1 for column in relevant.tolist()}
    return qrels, run


def with_a_loop(benchmark, scores, rows, setting, target, vectors) -> float:
    """A question after the other: sort all its candidates, average the precisions."""
    found = []
    for row, line in zip(rows.tolist(), scores, strict=True):
        kept, relevant = asked_of(benchmark, row, setting, target)
        ranking = kept[np.argsort(-line[kept], kind="stable")]
        ranks = np.flatnonzero(np.isin(ranking, relevant)) + 1
        found.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(np.mean(found))


def with_pytrec_eval(benchmark, scores, rows, setting, target, vectors) -> float:
    import pytrec_eval

    qrels, run = rankings(benchmark, scores, rows, setting, target)
    found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    return float(np.mean([values["map"] for values in found.values()]))


def with_ranx(benchmark, scores, rows, setting, target, vectors) -> float:
    from ranx import Qrels, Run
    from ranx import evaluate as ranx_evaluate

    qrels, run = rankings(benchmark, scores, rows, setting, target)
    return float(ranx_evaluate(Qrels(qrels), Run(run), "map", make_comparable=False))


def with_mteb(benchmark, scores, rows, setting, target, vectors) -> float:
    """MTEB's own search and scoring; its model only hands out the given embeddings."""
    from datasets import Dataset, disable_progress_bars
    from mteb._evaluators.retrieval_evaluator import RetrievalEvaluator
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.models.search_wrappers import SearchEncoderWrapper
    from mteb.timing import TimingStack
    from mteb.types import PromptType

    disable_progress_bars()
    kept, _ = asked_of(benchmark, rows[0], setting, target)
    questions, candidates = vectors[0][: len(rows)], vectors[1][kept]

    class Given:
        mteb_model_meta = None

        def encode(self, inputs, *, prompt_type, **_):
            return torch.from_numpy(questions if prompt_type == PromptType.query else candidates)

        def similarity(self, one, other):
            return one @ other.T

    def texts(ids):  # their loader reads them, though nothing is encoded
        return Dataset.from_dict({"id": ids, "text": ids, "title": [""] * len(ids)})

    evaluator = RetrievalEvaluator(
        corpus=texts([benchmark.candidate_ids[column] for column in kept]),
        queries=texts([str(row) for row in rows]),
        task_metadata=SimpleNamespace(modalities=["text"], get_modalities=lambda _: ["text"]),
        hf_split="test",
        hf_subset="default",
        top_k=max(AbsTaskRetrieval.k_values),
        timer=TimingStack(),
    )
    run = evaluator(SearchEncoderWrapper(Given()), encode_kwargs={"show_progress_bar": False})
    qrels = {
        str(row): {
            benchmark.candidate_ids[column]: 1 for column in asked_of(benchmark, row, setting, target)[1]
        }
        for row in rows
    }
    found = evaluator.evaluate(qrels, run, AbsTaskRetrieval.k_values)
    return float(np.mean([values["map_cut_1000"] for values in found.all_scores.values()]))


if __name__ == "__main__":
    main()
