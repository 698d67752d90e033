"""Mine hard negatives: corpus -> encode -> search blocks of examples -> select -> one file of training lines.

    OUTPUT_DIR/negatives.jsonl    every example, with its negatives (docs/data.md)
    OUTPUT_DIR/mining.json        settings, digests, counts, versions
    OUTPUT_DIR/blocks-*/          finished blocks of an unfinished mining

Embeddings are in `data.cache_dir`, under the digest of model and texts. An interrupted mining continues with
the missing files of embeddings and the missing blocks. Every number of actors gives the same file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hbt_dist.common.console import Progress, counted, note
from hbt_dist.common.devices import torch_device
from hbt_dist.common.files import check_writable, sha256_of
from hbt_dist.data.corpus.convert import overlap_text
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.instructions import check_language_names
from hbt_dist.evaluation.embedding_files import model_fingerprint, weights_digest
from hbt_dist.evaluation.faiss_lists import load_faiss
from hbt_dist.jobs.mine_file import MineFile, mining_corpus
from hbt_dist.mining.blocks import Judge, MiningPlan, join_blocks, mine_block
from hbt_dist.mining.checks import check_mining
from hbt_dist.mining.encode import LocalWorker, Workers, encode_corpus
from hbt_dist.mining.judges import CrossEncoderJudge, EncoderJudge, load_cross_encoder
from hbt_dist.mining.lines import write_lines
from hbt_dist.mining.record import NEGATIVES, MiningRecord
from hbt_dist.mining.summary import describe
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.training.run_folder import RunFolder

Launcher = Literal["ray", "local"]


@dataclass(frozen=True)
class BlockMiner:
    """Mine blocks of a plan; an actor gets it once.

    Args:
        plan: the mining.
        judge: scores the candidates again.
        device: of the search, by name.
        num_threads: of the search on a CPU; 0: all.
    """

    plan: MiningPlan
    judge: Judge | None
    device: str
    num_threads: int

    def __call__(self, number: int) -> int:
        """Write a block's file and return its number."""
        mine_block(
            self.plan,
            number,
            judge=self.judge,
            device=torch_device(self.device),
            num_threads=self.num_threads,
        )
        return number


def mine_job(job: MineFile, launcher: Launcher, *, quiet: bool = False) -> dict[str, Any]:
    """Mine the negatives of a file and write its output folder.

    Args:
        job: the file with absolute paths.
        launcher: ``ray`` works on `workers.num_workers` actors, ``local`` in this process.
        quiet: no progress.

    Returns:
        the record, see `MiningRecord.write`.

    Raises:
        UserError: data, model, judge, settings or folder cannot be used.
    """
    out = Path(job.output_dir)
    check_writable(out, "choose another output_dir")
    corpus = mining_corpus(job)
    for line in (*overlap_text(corpus).splitlines(), *reading_text(corpus).splitlines()):
        note(line)
    check_mining(job.mining, corpus)
    load_faiss()  # its absence is reported before the encoding
    if launcher == "local":
        torch_device(job.mining.encoding.device, "mining.encoding.device")
    check_language_names(job.model.text, corpus.languages)
    model: dict[str, Any] = {
        "name_or_path": job.model.name_or_path,
        "trust_remote_code": job.model.trust_remote_code,
        "text": job.model.text,
    }
    loaded = load_encoder(**model, quiet=quiet)
    judge = _LoadedJudge(job, launcher)
    folder = RunFolder(out)
    folder.acquire()
    try:
        with _workers(job, launcher) as workers:
            return _mine_with(job, corpus, workers, (model, loaded), judge, quiet=quiet)
    finally:
        folder.release()


class _LoadedJudge:
    """The judge of a file, if it has one: loaded in this process, so that mistakes are reported at once."""

    def __init__(self, job: MineFile, launcher: Launcher) -> None:
        self.settings = job.mining.judge
        self._device = job.mining.encoding.device
        self.digest: str | None = None
        if self.settings is None:
            return
        if self.settings.kind == "cross_encoder":
            # The driver of actors may have no GPU: it reads the weights alone.
            device = "cpu" if launcher == "ray" else self._device
            self.digest = weights_digest(load_cross_encoder(self.settings, device)).hexdigest()
            return
        self._model: dict[str, Any] = {
            "name_or_path": self.settings.name_or_path,
            "trust_remote_code": self.settings.trust_remote_code,
            "text": self.settings.text,
        }
        self._loaded = load_encoder(**self._model)
        self.digest = model_fingerprint(self._loaded)

    def of(self, workers: Workers, corpus: Corpus, settings: Any, *, progress: bool) -> Judge | None:
        """Return the judge of a corpus; an encoder encodes it first."""
        if self.settings is None:
            return None
        if self.settings.kind == "cross_encoder":
            return CrossEncoderJudge(corpus, self.settings, self._device)
        vectors = encode_corpus(workers, self._model, self._loaded, corpus, settings, progress=progress)
        return EncoderJudge(corpus, *vectors)


def _mine_with(
    job: MineFile,
    corpus: Corpus,
    workers: Workers,
    model: tuple[dict[str, Any], LoadedEncoder],
    judge: _LoadedJudge,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Encode, search and write, and return the record."""
    out = Path(job.output_dir)
    cache = str(Path(job.data.cache_dir) / "embeddings")
    settings = workers.with_arithmetic(job.mining.encoding.for_encoder(cache))
    decided_by = {
        "mining": job.mining.model_dump(mode="json"),
        "dtype": settings.dtype,
        "seed": job.seed,
        "model": {"digest": model_fingerprint(model[1]), "text": model[1].text.model_dump(mode="json")},
        "judge": judge.digest,
        "corpus": corpus.fingerprint,
    }
    record = MiningRecord(out, decided_by)
    if (finished := record.finished()) is not None:
        note(f"{out / NEGATIVES} is finished; nothing to do")
        return finished
    note(
        f"mining for {counted(corpus.num_examples, 'question')} among "
        f"{counted(corpus.num_passages, 'passage')} in {', '.join(corpus.languages)}, with {model[1].source}"
    )
    questions, candidates = encode_corpus(workers, *model, corpus, settings, progress=not quiet)
    judging = judge.of(workers, corpus, settings, progress=not quiet)
    record.blocks.mkdir(exist_ok=True)
    record.write(job.plain())
    plan = MiningPlan(
        corpus=corpus,
        settings=job.mining,
        seed=job.seed,
        folder=record.blocks,
        questions=questions,
        candidates=candidates,
    )
    threads = 0 if isinstance(workers, LocalWorker) else max(1, int(job.workers.cpus_per_worker))
    _search(workers, BlockMiner(plan, judging, settings.device, threads), quiet=quiet)
    mined = join_blocks(plan)
    write_lines(out / NEGATIVES, corpus, mined, progress=not quiet)
    path = out / NEGATIVES
    file = {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    written = record.write(job.plain(), file, scores=describe(corpus, mined), counts=mined.counts)
    for blocks in out.glob("blocks-*"):
        shutil.rmtree(blocks)
    return written


def _search(workers: Workers, miner: BlockMiner, *, quiet: bool) -> None:
    """Mine the missing blocks."""
    plan, missing = miner.plan, miner.plan.missing()
    total, sizes = plan.corpus.num_examples, {number: len(plan.examples(number)) for number in missing}
    done = total - sum(sizes.values())
    with Progress(total, "mine", "question", initial=done, disable=quiet, first_seconds=1.0) as bar:
        for number in workers.run(miner, missing):
            bar.update(sizes[number])


@contextmanager
def _workers(job: MineFile, launcher: Launcher) -> Iterator[Workers]:
    """Yield this process, or actors of the cluster that the file names."""
    load_faiss()  # its absence is reported before the encoding
    if launcher == "local":
        yield LocalWorker()
        return
    from hbt_dist.orchestration.cluster import connect
    from hbt_dist.orchestration.evaluation import EvaluationActors

    workers = job.workers
    with (
        connect(workers) as cluster,
        EvaluationActors(
            cluster,
            workers.num_workers,
            cpus=workers.cpus_per_worker,
            gpus=None if workers.use_gpu == "auto" else float(workers.use_gpu),
            max_restarts=workers.max_failures,
            start_timeout_seconds=workers.start_timeout_seconds,
        ) as actors,
    ):
        yield actors
