"""Show the Python names, cell by cell; `tests/test_docs.py` runs it.

Train the quickstart's encoder for a few steps in this process, on the embedded sample: about a minute.
"""

# %% A run file and its corpus
from pathlib import Path

import hbt_dist as hbt

OVERRIDES = [
    "output_dir=runs/notebook",
    "training.steps=20",
    "batches.global_batch_size=32",
    "data.languages=[en, fi, hu, tr]",
    "evaluation.benchmarks=[]",
]
run = hbt.load_run("quickstart", OVERRIDES)
corpus = hbt.build_corpus(run.data, Path(run.data.cache_dir))
print(f"{corpus.num_examples:,} examples in {', '.join(corpus.languages)}")

# %% The global batch of any step, without the steps before it
plan = hbt.BatchPlan(corpus, run.batches, run.seed)
for step in range(4):
    batch = plan.batch(step)
    pairs = zip(batch.question_language[:4], batch.passage_language[:4], strict=True)
    shown = ", ".join(
        f"{corpus.languages[question]}->{corpus.languages[passage]}" for question, passage in pairs
    )
    print(f"step {step}: {batch.kind}, {shown}, ...")

# %% Training; the same call continues an interrupted run
folder = hbt.train_job(run, "local", quiet=True)

# %% Exact ranks of every (question language, candidate language) pair, before and after
benchmark = hbt.load_benchmark("sample", None, languages=("en", "fi", "hu", "et"))
for name, model in {"before": folder.start, "after": folder.model}.items():
    encoder = hbt.load_encoder(model)
    questions = hbt.encode_texts(encoder, benchmark.question_texts, "question", progress=False)
    candidates = hbt.encode_texts(encoder, benchmark.candidate_texts, "passage", progress=False)
    evaluation = hbt.evaluate(benchmark, questions, candidates, seen_languages=plan.languages)
    hbt.write_evaluation(evaluation, Path("results") / name, add_files=hbt.write_report)
    print(name, {setting: round(means["macro"]["map"], 3) for setting, means in evaluation.means.items()})

# %% Is the change more than chance?
comparison = hbt.compare([["results/after"]], baseline=["results/before"])
print(hbt.comparison_text(comparison))

# %% The matrix as a data frame of per-question values
rows = hbt.read_evaluation("results/after").values("pair", "map")
print(
    rows.groupby(["question_language", "candidate_language"], observed=True)["value"]
    .mean()
    .unstack()
    .round(3)
)

# %% The results of a search (hbt-dist search), if the folder exists
if Path("searches/alpha").is_dir():
    search = hbt.load_search("searches/alpha")
    points = hbt.candidates(search)
    print(hbt.curve(search, "batches.alpha"))
    print("knee of the front:", hbt.knee_point(points, search.objectives), sep="\n")
