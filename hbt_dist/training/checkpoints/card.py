"""Write the README of a trained model: how it was made and how to use it."""

from __future__ import annotations

import yaml

from hbt_dist import __version__
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.run_file import RunFile


def model_card(run: RunFile, corpus: Corpus, plan: BatchPlan) -> str:
    """Return the README as Markdown, with the metadata header that model hubs read."""
    header = {
        "language": sorted(plan.languages),
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "dense-retrieval", "multilingual", "hybrid-batch-training"],
    }
    text = run.model.text
    mixture = ", ".join(f"{entry.kind} {entry.weight}" for entry in run.batches.entries())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {run.name}

A bi-encoder for retrieval in {len(plan.languages)} languages, trained with hybrid batches
([arXiv 2408.10536](https://arxiv.org/abs/2408.10536)) by hbt_dist {__version__}.

| | |
|---|---|
| started from | {run.model.name_or_path or "random weights"} |
| training languages | {" ".join(plan.languages)} |
| data | {", ".join(corpus.datasets)}: {corpus.num_examples:,} examples |
| batches | {mixture}; global batch {run.batches.global_batch_size} |
| loss | InfoNCE, temperature {run.loss.temperature:g} |
| steps | {run.training.steps}, learning rate {run.optimizer.learning_rate:g} |
| seed | {run.seed} |
| data fingerprint | `{corpus.fingerprint[:16]}` |
| plan fingerprint | `{plan.fingerprint[:16]}` |

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
questions = model.encode(["..."], prompt_name="query")
passages = model.encode(["..."], prompt_name="passage")
scores = model.similarity(questions, passages)
```

Question prefix: `{text.get("question_prefix", "")!r}`, passage prefix: `{text.get("passage_prefix", "")!r}`.
"""
