"""XQuAD-R from given embeddings, beside pytrec_eval and ranx on full rankings.

    python benchmarks/evaluation/xquad_r.py --data-dir ../shared/data/xquad-r

Ours: pair matrix, pooled one-target matrix, multilingual pool and language bias of 13,090 questions against
13,014 candidates, width 384, random vectors and the real relevance. The others: the mAP of the same three
settings from full rankings, on the first `--sample` questions of each language, scaled up. Neither bias
measures nor their matrix product count in their time. Writes benchmarks/results/xquad_r.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

from hbt_dist.data.benchmark import load_benchmark
from hbt_dist.evaluation.config import EvaluationSettings
from hbt_dist.evaluation.evaluation import evaluate


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
    for name, judge in (("pytrec_eval", with_pytrec_eval), ("ranx", with_ranx)):
        judge(*rankings(benchmark, scores[:1], rows[:1], "pair", 0))  # ranx compiles itself on the first call
        cpu, wall, worst = 0.0, 0.0, 0.0
        for setting, table in evaluation.tables.items():
            for target in range(len(benchmark.languages)) if setting != "multilingual" else (-1,):
                value, seconds, cpu_seconds = timed(
                    lambda j=judge, s=setting, t=target: j(*rankings(benchmark, scores, rows, s, t))
                )
                wall, cpu = wall + seconds, cpu + cpu_seconds
                mine = np.isin(table.question, rows) & (table.candidate_language == target)
                worst = max(worst, abs(value - table.values["map"][mine].mean()))
        scale = benchmark.num_questions / len(rows)
        runs.append(
            {
                "tool": name,
                "what": "pair matrix, one-target matrix, multilingual pool",
                "questions": len(rows),
                "seconds_for_all_questions": round(wall * scale, 1),
                "cpu_seconds_for_all_questions": round(cpu * scale, 1),
                "times_our_cpu_seconds": round(cpu * scale / runs[0]["cpu_seconds"], 1),
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


def rankings(benchmark, scores, rows, setting, target):
    """qrels and full run of a setting, as dictionaries."""
    language = benchmark.candidate_language
    qrels, run = {}, {}
    for row, line in zip(rows.tolist(), scores, strict=True):
        relevant, kept = benchmark.relevant_of(row), np.ones(len(language), bool)
        if setting == "pair":
            kept = language == target
        elif setting == "one_target":
            kept[relevant[language[relevant] != target]] = False
        if setting != "multilingual":
            relevant = relevant[language[relevant] == target]
        columns = np.flatnonzero(kept).tolist()
        ids = [benchmark.candidate_ids[column] for column in columns]
        run[str(row)] = dict(zip(ids, line[columns].tolist(), strict=True))
        qrels[str(row)] = {benchmark.candidate_ids[column]: 1 for column in relevant.tolist()}
    return qrels, run


def with_pytrec_eval(qrels, run) -> float:
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    return float(np.mean([values["map"] for values in found.values()]))


def with_ranx(qrels, run) -> float:
    from ranx import Qrels, Run
    from ranx import evaluate as ranx_evaluate

    return float(ranx_evaluate(Qrels(qrels), Run(run), "map", make_comparable=False))


if __name__ == "__main__":
    main()
