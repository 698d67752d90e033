"""Measure what short vectors cost each language pair of XQuAD-R, and how long the extra rankings take.

    python benchmarks/evaluation/short_vectors.py MODEL --data-dir DATA/xquad-r --work WORK --about NAME

MODEL is the folder of a multilingual encoder. The widths are 1/2, 1/4 and 1/8 of its embeddings; int8 and
binary have the full width, and int8 also half of it. Embeddings are in WORK, so that an interrupted run
continues. Times are those of ranking alone, from stored embeddings: full embeddings, then all forms.
Writes short_vectors.csv (mAP, loss and p of every form and language pair) and short_vectors.md.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.read_results import read_results
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.models.loading import load_encoder

SETTINGS = ("monolingual", "crosslingual", "multilingual")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--about", required=True, help="name of the model for the page")
    parser.add_argument("--languages", nargs="*", help="default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    asked = parser.parse_args()
    width = load_encoder(asked.model, quiet=True).encoder.width
    half = width // 2
    forms: dict[str, Any] = {
        "widths": (half, width // 4, width // 8, f"{half}:int8"),
        "precisions": ("int8", "binary"),
    }
    benchmark = BenchmarkSettings(name="xquad-r", data_dir=asked.data_dir, languages=asked.languages or None)

    def seconds(name: str, **extra: Any) -> float:
        began = time.process_time()
        scoring = EvaluationSettings(
            device="cpu", cache_dir=str(asked.work / "embeddings"), rows_per_file=1024, **extra
        )
        evaluate_job(str(asked.model), benchmark, asked.work / name, scoring=scoring)
        return time.process_time() - began

    encoding = seconds("encode")
    full, all_forms = seconds("full"), seconds("short", **forms)
    results = read_results(asked.work / "short")
    with (asked.work / "short" / "representations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    asked.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, asked.out / "short_vectors.csv")
    ratio = (
        f"Loading, ranking and tables took {full:.0f} processor seconds for full embeddings and "
        f"{all_forms:.0f} for these {len(results['representations'])} forms, {all_forms / full:.1f} times as "
        f"much, from stored embeddings. The call that encoded (all or what was missing) took {encoding:.0f}."
    )
    (asked.out / "short_vectors.md").write_text(page(results, rows, asked.about, width, ratio), "utf-8")


def write_csv(rows: list[dict[str, str]], path: Path) -> None:
    """Round figures to five digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            rounded = {key: f"{float(row[key]):.5f}" for key in ("map", "loss", "p") if row[key]}
            writer.writerow({**row, **rounded})


def page(results: dict[str, Any], rows: list[dict[str, str]], about: str, width: int, ratio: str) -> str:
    block, benchmark = results["representations"], results["benchmark"]
    languages = benchmark["languages"]
    text = results["provenance"]["text"]
    lines = [
        "# Short vectors on XQuAD-R",
        "",
        f"`python benchmarks/evaluation/short_vectors.py MODEL --data-dir DATA/xquad-r --work WORK "
        f"--about NAME`; {about}; variant {benchmark['variant']}, "
        f"{benchmark['num_questions']['total']:,} questions, {benchmark['num_candidates']['total']:,} "
        f"candidates, embeddings of {width} values, prefixes "
        f"`{text['question_prefix']}` and `{text['passage_prefix']}`. {ratio}",
        "",
        "## Means of mAP",
        "",
        table(
            ["form", "bytes", *SETTINGS, "rank distance", "tied relevant pairs"],
            [
                [
                    name,
                    f"{entry['bytes_per_vector']:,}",
                    *(f"{entry['map'][setting]:.4f}" for setting in SETTINGS),
                    f"{entry['rank_distance']:.0f}",
                    f"{entry['num_relevant_pairs_tied']:,}",
                ]
                for name, entry in block.items()
            ],
        ),
    ]
    short = [name for name in block if name != "full"]
    for title, chosen in (
        ("as question language: mean over all candidate languages", "question_language"),
        ("as candidate language: mean over all question languages", "candidate_language"),
    ):
        losses = {name: {code: mean_loss(rows, name, {chosen: code}) for code in languages} for name in short}
        order = sorted(languages, key=lambda code, losses=losses: -losses[short[2]][code])  # type: ignore[misc]
        lines += ["", f"## Loss of mAP {title}", ""]
        cells = [[name, *(f"{losses[name][code]:.4f}" for code in order)] for name in short]
        lines.append(table(["form", *order], cells))
    lines += ["", "## Loss of monolingual mAP", ""]
    mono = {code: {"question_language": code, "candidate_language": code} for code in languages}
    cells = [[name, *(f"{mean_loss(rows, name, mono[code]):.4f}" for code in languages)] for name in short]
    lines.append(table(["form", *languages], cells))
    lines += ["", "## Pairs that lose most and least", ""]
    lines.append(table(["form", "most", "least", "pairs with p < 0.05"], [extremes(rows, n) for n in short]))
    lines += ["", "Every pair: [short_vectors.csv](short_vectors.csv)."]
    return "\n".join(lines) + "\n"


def cells_of(rows: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [row for row in rows if row["representation"] == name and row["candidate_language"]]


def mean_loss(rows: list[dict[str, str]], name: str, wanted: dict[str, str]) -> float:
    """Mean over the cells of the pair matrix with these languages."""
    chosen = [row for row in cells_of(rows, name) if row.items() >= wanted.items()]
    return float(np.mean([float(row["loss"]) for row in chosen]))


def extremes(rows: list[dict[str, str]], name: str) -> list[str]:
    cells = sorted(cells_of(rows, name), key=lambda row: -float(row["loss"]))

    def shown(chosen: list[dict[str, str]]) -> str:
        return ", ".join(
            f"{row['question_language']}-{row['candidate_language']} {float(row['loss']):.3f}"
            for row in chosen
        )

    significant = sum(float(row["p"]) < 0.05 for row in cells)
    return [name, shown(cells[:5]), shown(cells[-5:]), f"{significant} of {len(cells)}"]


def table(header: list[str], rows: list[list[str]]) -> str:
    ruler = "|" + "---|" * len(header)
    return "\n".join("| " + " | ".join(row) + " |" if row else ruler for row in (header, [], *rows))


if __name__ == "__main__":
    main()
