"""Which columns of real batches a margin leaves out, how many the corpus knows as groups, and what they are.

    HBT_DIST_DATA=... python benchmarks/contrastive/false_negatives.py --model FOLDER --scratch /tmp/masks \
        --out benchmarks/results/false_negatives.json

Rows are drawn at random, without the plan that keeps each group out of a batch twice, so that known false
negatives occur: examples of one passage, of equal texts, of translations. Three sets:

* squad: questions of SQuAD in English or Finnish, the passage in the other language.
* native: questions with passages in 16 languages, each row in its language.
* tico19: sentences about COVID-19 and their translations, English towards 8 languages and back.

The model is a sentence-transformers folder with the prompts "query: " and "passage: ". Vectors are kept in
the scratch folder: a run that was interrupted continues. Texts are cut at 128 tokens.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings

MARGINS = (-0.05, 0.0, 0.05, 0.1)
TOKENS, TEXTS_AT_ONCE = 128, 64


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def records(name: str, data: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a set in the training format."""
    if name == "tico19":
        for row in lines(data / "qa-native" / "parallel" / "tico19.jsonl.gz"):
            yield {"id": row["id"], "question": row["text"], "passage": row["text"]}
    else:
        for path in sorted((data / "qa-native").glob("*.jsonl.gz")):
            for row in lines(path):
                texts = {role: {row["language"]: row[role]} for role in ("question", "passage")}
                yield {"id": f"{row['language']}-{row['id']}", **texts, "passage_id": row["passage_id"]}


def corpus_of(name: str, data: Path, scratch: Path) -> Corpus:
    source: dict[str, Any] = {"name": "squad", "format": "squad-parallel", "path": str(data / "squad-en-fi")}
    if name != "squad":
        file = scratch / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in records(name, data)), encoding="utf-8")
        source = {"name": name, "format": "jsonl", "path": str(file)}
    block = {"sources": [source], "missing": "skip"}
    return build_corpus(DataSettings.model_validate(block), scratch / f"corpus-{name}")


def draw(name: str, corpus: Corpus, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return examples, question languages and passage languages."""
    generator = np.random.default_rng(7)
    example = np.sort(generator.choice(corpus.num_examples, rows, replace=False))
    question, passage = np.zeros(rows, int), np.zeros(rows, int)
    english = corpus.languages.index("en")
    for row, cell in enumerate(corpus.example_cell[example]):
        languages = np.flatnonzero(corpus.cell_passages[cell])
        question[row] = passage[row] = languages[0]
        if name != "native":
            pair = [english, generator.choice(languages[languages != english])]
            question[row], passage[row] = generator.permutation(pair)
    return example, question, passage


def encoded(texts: list[str], prompt: str, model: str, file: Path) -> np.ndarray:
    """Return vectors of length 1; a part of the texts at a time, kept in files."""
    from sentence_transformers import SentenceTransformer

    loaded = None
    parts = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = file.with_name(f"{file.stem}-{start}.npy")
        if not part.exists():
            if loaded is None:
                loaded = SentenceTransformer(model, device="cpu")
                loaded.max_seq_length = TOKENS
            batch = texts[start : start + TEXTS_AT_ONCE]
            np.save(part, loaded.encode(batch, prompt=prompt, batch_size=16, normalize_embeddings=True))
        parts.append(np.load(part))
    return np.concatenate(parts)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Counts at each margin, and examples that no group knows."""
    data, scratch = Path(os.environ["HBT_DIST_DATA"]), options.scratch
    corpus = corpus_of(name, data, scratch)
    example, question_language, passage_language = draw(name, corpus, options.rows)
    positive = corpus.example_passage[example]
    pairs = zip(example, question_language, strict=True), zip(positive, passage_language, strict=True)
    questions = [corpus.question_text(int(row), int(language)) for row, language in pairs[0]]
    passages = [corpus.passage_text(int(row), int(language)) for row, language in pairs[1]]
    q = encoded(questions, "query: ", options.model, scratch / f"{name}-questions.npy")
    p = encoded(passages, "passage: ", options.model, scratch / f"{name}-passages.npy")
    excess = q @ p.T - np.sum(q * p, axis=1)[:, None]
    np.fill_diagonal(excess, -np.inf)
    group = corpus.example_group[example]
    known = group[:, None] == group[None]
    np.fill_diagonal(known, False)
    counts = []
    for margin in MARGINS:
        masked = excess > margin
        languages = Counter(
            f"{corpus.languages[question_language[i]]}-{corpus.languages[passage_language[j]]}"
            for i, j in np.argwhere(masked & ~known)
        )
        of_column = passage_language[None]
        counts.append(
            {
                "margin": margin,
                "masked": int(masked.sum()),
                "share": float(masked.sum() / (len(q) * (len(q) - 1))),
                "known": int((masked & known).sum()),
                "rows": int((masked & ~known).any(1).sum()),
                "in_question_language": int((masked & (of_column == question_language[:, None])).sum()),
                "in_positive_language": int((masked & (of_column == passage_language[:, None])).sum()),
                "pairs": dict(languages.most_common(4)),
            }
        )
    unknown = np.argwhere((excess > MARGINS[1]) & ~known)
    order = np.argsort(-excess[tuple(unknown.T)])[:: max(len(unknown) // options.examples, 1)]
    shown = [
        {
            "excess": round(float(excess[i, j]), 3),
            "question": questions[i],
            "positive": passages[i][:300],
            "column": passages[j][:300],
        }
        for i, j in unknown[order][: options.examples]
    ]
    return {"set": name, "rows": len(q), "known": int(known.sum()), "margins": counts, "examples": shown}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="sentence-transformers folder")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for corpora and vectors, 200 MB")
    parser.add_argument("--out", type=Path, help="file for the counts")
    parser.add_argument("--sets", nargs="+", default=["squad", "native", "tico19"])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--examples", type=int, default=15)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.sets:
        result = measure(name, options)
        for shown in result.pop("examples"):
            print(json.dumps(shown, ensure_ascii=False))
        print(json.dumps(result))
        results.append(result)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
