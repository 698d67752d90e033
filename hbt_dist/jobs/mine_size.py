"""Predict what a mining takes, without a model: texts, blocks, disk, memory."""

from __future__ import annotations

from hbt_dist.common.console import counted
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.jobs.mine_file import MineFile, mining_corpus
from hbt_dist.mining.blocks import block_memory
from hbt_dist.mining.checks import check_mining
from hbt_dist.models.known_width import known_width
from hbt_dist.models.loading import check_present

_MIB = 2**20


def describe_mining(job: MineFile) -> str:
    """Return a mining as lines: examples, passages, texts to encode, blocks, embeddings.

    Raises:
        UserError: data, models or settings cannot be used.
    """
    check_present(str(job.model.name_or_path), "model.name_or_path")
    if job.mining.judge is not None:
        check_present(job.mining.judge.name_or_path, "mining.judge.name_or_path")
    corpus = mining_corpus(job)
    check_mining(job.mining, corpus)
    questions, passages = (len(FlatTexts(corpus, role)) for role in ("question", "passage"))
    texts = questions + passages
    lines = [
        f"{counted(corpus.num_examples, 'question')} in {questions:,} texts, "
        f"{counted(corpus.num_passages, 'passage')} in {passages:,} texts; {', '.join(corpus.languages)}",
        f"at most {job.mining.count * corpus.num_examples:,} negatives, {job.mining.count} per question",
    ]
    width = job.model.text.get("width") or known_width(job.model)
    if width is None:
        lines.append("width of the embeddings unknown: the model's configuration is not on this machine")
    else:
        lines.append(
            f"embeddings on disk: {texts:,} x {width} x 4 bytes = {texts * width * 4 / _MIB:,.1f} MiB in "
            f"{job.data.cache_dir}/embeddings"
        )
        languages = int(corpus.cell_questions.sum(axis=1).max())
        block = block_memory(job.mining, width, languages)
        lines.append(
            f"{counted(-(-corpus.num_examples // job.mining.examples_per_block), 'block')} of "
            f"{job.mining.examples_per_block:,} questions; a worker searches one in at most "
            f"{block / _MIB:,.0f} MiB in addition to the model"
        )
    return "\n".join(lines)
