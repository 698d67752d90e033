"""The curve of alpha as a page: from a search on the embedded sample and a study on public data.

    hbt-dist search ray_configs/search/alpha.yaml
    hbt-dist study ray_configs/studies/small.yaml
    python benchmarks/search/curve.py searches/alpha studies/small --output benchmarks/results

Writes alpha.md, alpha_sample.csv, alpha_public.csv and alpha.png. Instead of the search's folder its
alpha_sample.csv will do, to make the page again with another study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from hbt_dist.analysis import curve, load_search

#: Methods of the small study that differ in alpha alone.
ALPHAS = {"crosslingual": 0.0, "hybrid-25": 0.25, "hybrid": 0.5, "hybrid-75": 0.75, "multilingual": 1.0}
OBJECTIVES = ("monolingual", "crosslingual", "multilingual", "rank_distance")


def of_search(source: Path) -> pd.DataFrame:
    """One row per alpha: mean and standard deviation over seeds of each objective on the development half."""
    if source.suffix == ".csv":
        return pd.read_csv(source)
    rows = curve(load_search(source), "batches.alpha")
    wide = rows.pivot(index="value", columns="objective", values=["mean", "std", "count"])
    frame = pd.DataFrame({"alpha": wide.index})
    for name in OBJECTIVES:
        frame[name] = wide["mean"][name].to_numpy()
        frame[f"{name}_sd"] = wide["std"][name].to_numpy()
    frame["seeds"] = wide["count"][OBJECTIVES[0]].to_numpy().astype(int)
    return frame


def of_study(folder: Path) -> pd.DataFrame:
    """The same per benchmark of the small study."""
    frames = []
    for path in sorted((folder / "report" / "tables").glob("*_summary.csv")):
        table = pd.read_csv(path)
        table = table[table["method"].isin(list(ALPHAS))]
        table.insert(0, "alpha", table["method"].map(ALPHAS))
        table.insert(0, "benchmark", path.name.removesuffix("_summary.csv"))
        frames.append(table.sort_values("alpha").drop(columns="method"))
    return pd.concat(frames, ignore_index=True)


def table(frame: pd.DataFrame) -> str:
    """Markdown: alpha, seeds, mean (standard deviation)."""
    lines = [
        "| alpha | seeds | mono mAP | cross mAP | multi mAP | rank distance |",
        "|---|---|---|---|---|---|",
    ]
    for row in frame.to_dict("records"):
        cells = [f"{row['alpha']:g}", str(row["seeds"])]
        for name in OBJECTIVES:
            digits = 1 if name == "rank_distance" else 4
            cells.append(f"{row[name]:.{digits}f} ({row[f'{name}_sd']:.{digits}f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(frames: dict[str, pd.DataFrame], path: Path) -> None:
    """mAP of the three settings over alpha, one panel per benchmark."""
    figure = Figure(figsize=(3.4 * len(frames), 3.2), layout="constrained")
    panels = figure.subplots(1, len(frames), squeeze=False)[0]
    for axis, (title, frame) in zip(panels, frames.items(), strict=True):
        for name, colour, mark in zip(OBJECTIVES[:3], ("#0072B2", "#E69F00", "#009E73"), "osD", strict=True):
            axis.errorbar(
                frame["alpha"],
                frame[name],
                yerr=frame[f"{name}_sd"],
                color=colour,
                marker=mark,
                label=name,
                capsize=2,
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("alpha")
        axis.set_ylim(bottom=0)
    panels[0].set_ylabel("mAP, mean and standard deviation over seeds", fontsize=8)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("search", type=Path)
    parser.add_argument("study", type=Path, nargs="?", help="default: the sample alone")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    frames = {"embedded sample (dev)": of_search(given.search)}
    frames["embedded sample (dev)"].to_csv(given.output / "alpha_sample.csv", index=False)
    if given.study is not None:
        public = of_study(given.study)
        public.to_csv(given.output / "alpha_public.csv", index=False)
        frames |= dict(iter(public.groupby("benchmark")))
    draw(frames, given.output / "alpha.png")
    parts = [
        "# The curve of alpha",
        "",
        "Alpha is the share of global batches that are monolingual; the others are cross-lingual.",
        "",
    ]
    parts += [
        "    hbt-dist search ray_configs/search/alpha.yaml",
        "    hbt-dist study ray_configs/studies/small.yaml",
    ]
    parts += [
        "    python benchmarks/search/curve.py searches/alpha studies/small --output benchmarks/results",
        "",
    ]
    parts += ["![curves](alpha.png)", ""]
    for title, frame in frames.items():
        parts += [f"## {title}", "", table(frame), ""]
    notes = given.output / "alpha_notes.md"
    if notes.is_file():
        parts.append(notes.read_text("utf-8").strip())
    (given.output / "alpha.md").write_text("\n".join(parts).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    main()
