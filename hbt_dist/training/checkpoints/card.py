"""Write the README of a trained model: how it was made, how to use it, and what it scored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hbt_dist import __version__
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.console import counted
from hbt_dist.common.files import atomic_write
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.evaluation.read_results import headline_figures, read_results
from hbt_dist.models.card import TAGS, USAGE, base_metadata, header
from hbt_dist.models.settings import LoraSettings, TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.run_folder import RunFolder

_METRICS = {
    "monolingual": "mAP, question and passages in one language",
    "crosslingual": "mAP, question and passages in two languages",
    "multilingual": "mAP, pool of all languages",
}

_SHOWN = 10  # prefixes


def model_card(run: RunFile, corpus: Corpus, plan: BatchPlan, text: TextSettings) -> str:
    """Return the README as Markdown, with the metadata header that model hubs read.

    Args:
        text: settings of the exported encoder.
    """
    start = run.model.name_or_path
    metadata = header(
        sorted(plan.languages),
        base_metadata(start) if start is not None else {},
        datasets=sorted({str(source.path) for source in run.data.sources if source.format == "hub"}),
        tags=[*TAGS, "hybrid-batch-training"],
    )
    mixture = ", ".join(
        f"{entry.kind} {entry.weight}" + (f" ({' '.join(entry.sources)})" if entry.sources else "")
        for entry in run.batches.entries()
    )
    return f"""{metadata}

# {run.name}

A bi-encoder for retrieval in {counted(len(plan.languages), "language")}, trained with hybrid batches
([arXiv 2408.10536](https://arxiv.org/abs/2408.10536)) by hbt_dist {__version__}.

| | |
|---|---|
| started from | {run.model.name_or_path or "random weights"} |
| training languages | {" ".join(plan.languages)} |
| data | {", ".join(corpus.datasets)}: {corpus.num_examples:,} examples |
| batches | {mixture}; global batch {run.batches.global_batch_size} |
| loss | InfoNCE, temperature {run.loss.temperature:g} |
{_adapter_row(run.model.lora)}| steps | {run.training.steps}, learning rate {run.optimizer.learning_rate:g} |
| seed | {run.seed} |
| data fingerprint | `{corpus.fingerprint[:16]}` |
| plan fingerprint | `{plan.fingerprint[:16]}` |

{USAGE}

{_prefixes(text, corpus)}.
"""


def _prefixes(text: TextSettings, corpus: Corpus) -> str:
    """Return the prefixes, and what a reader of them must know."""
    remarks = [f"Question prefix: `{text.question_prefix!r}`, passage prefix: `{text.passage_prefix!r}`"]
    remarks += ["" if text.include_prompt else "pooling leaves their tokens out"]
    remarks += ["texts are lower-cased" if text.lowercase else ""]
    templates = {text.question_prefix, text.passage_prefix, *corpus.prefixes}
    if any(LANGUAGE in (template or "") for template in templates):
        remarks.append(f"{LANGUAGE} stands for the English name of the text's language")
    if trained := [repr(prefix) for prefix in corpus.prefixes if prefix is not None]:
        more = f" and {len(trained) - _SHOWN:,} more" if len(trained) > _SHOWN else ""
        remarks.append(f"sources were trained with {', '.join(trained[:_SHOWN])}{more}")
    return "; ".join(remark for remark in remarks if remark)


def _adapter_row(lora: LoraSettings | None) -> str:
    if lora is None:
        return ""
    targets = "all linear layers" if lora.targets is None else ", ".join(lora.targets)
    return f"| adapters | LoRA of rank {lora.rank}, alpha {lora.alpha:g}, of {targets} |\n"


def card_with_results(card: str, run: RunFile, folder: RunFolder, step: int) -> str:
    """Return a card whose `model-index` holds the run's evaluations of the model after `step` steps.

    Raises:
        UserError: an evaluation's results.json is damaged.
    """
    evaluations = {path.parent.name: path.parent for path in _results(folder, step, run.training.steps)}
    if not evaluations:
        return card
    from huggingface_hub import EvalResult, ModelCard

    parsed = ModelCard(card)
    metrics = []
    for label, path in sorted(evaluations.items()):
        results = read_results(path)
        figures = headline_figures(results)
        metrics += [
            EvalResult(
                task_type="information-retrieval",
                dataset_type=results["benchmark"]["name"],
                dataset_name=label,
                dataset_config=label,
                metric_type=f"map_{setting}",
                metric_name=name,
                metric_value=round(value, 4),
            )
            for setting, name in _METRICS.items()
            if (value := figures[setting]) is not None
        ]
    vars(parsed.data).update(model_name=run.name, eval_results=metrics)
    return str(parsed)


def _results(folder: RunFolder, step: int, last: int) -> Iterable[Path]:
    """Yield results.json of the evaluations of a step; those after the training come last."""
    yield from folder.evaluation.glob(f"step-{step}/*/results.json")
    if step == last:
        yield from folder.evaluation.glob("end/*/results.json")


def add_results(run: RunFile) -> None:
    """Add the evaluation after the training to the card of the trained model."""
    folder = RunFolder(run.output_dir)
    file = folder.model / "README.md"
    card = file.read_text("utf-8")
    atomic_write(file, card_with_results(card, run, folder, run.training.steps))
