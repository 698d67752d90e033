"""Read a retrieval task of MTEB as a benchmark, with the rules by which MTEB scores it.

    hbt-dist evaluate --model MODEL --benchmark mteb:MIRACLRetrieval --languages fi,sw --output results/miracl

MTEB loads the task: from the hub, or from a copy of its repository (`--data-dir`). Each subset has one
language, or two: that of its documents, then that of its questions (`ara-deu` of MLQA). A subset's questions
have relevant documents in that subset only. The cell of a pair of languages is MTEB's subset; the pool of all
languages is what MTEB does not score. Documents are held in memory.

Questions are `{subset}:{id}`, documents keep their ids. `identical_ids` is the task's `ignore_identical_ids`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.judgements import Rules
from hbt_dist.data.benchmarks.settings import IdenticalIds, Judgements
from hbt_dist.data.fields import check_id, check_type, language_at
from hbt_dist.data.files import existing_folder

#: Beginning of a benchmark's name that stands for a task of MTEB.
PREFIX = "mteb:"


def load_task(
    name: str,
    data_dir: Path | None,
    split: str | None,
    languages: tuple[str, ...] | None,
    judgements: Judgements | None,
    identical_ids: IdenticalIds | None,
) -> Benchmark:
    """Load a task and return it as a benchmark.

    Args:
        name: `mteb:` and the task's name.
        data_dir: local copy of its repository; None lets MTEB download it.
        split: one of the task's; None takes `test`, or else its first.
        languages: only subsets whose languages are among these.
        judgements: default: `as_published`.
        identical_ids: default: as the task.

    Raises:
        UserError: MTEB is not installed, has no such task, or cannot load it; the task is not a retrieval of
            texts from a whole corpus.
    """
    task = _open_task(name, data_dir)
    chosen = split or next(
        (part for part in ("test", *task.metadata.eval_splits) if part in _splits(task)), ""
    )
    if chosen not in _splits(task):
        raise UserError(
            f"benchmark {name}", f"there is no split {chosen!r}", f"choose from {', '.join(_splits(task))}"
        )
    subsets = [subset for subset, _, _ in _subsets(task, name, languages)]
    if not subsets:
        has = ", ".join(sorted({code for _, *codes in _subsets(task, name, None) for code in codes}))
        raise UserError(f"benchmark {name}", "has none of the languages", f"it has {has}")
    task.filter_languages(None, hf_subsets=subsets)
    task.filter_eval_splits([chosen])
    try:
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:  # datasets and the hub raise a dozen kinds, tasks their own
        raise UserError(
            f"benchmark {name}",
            f"MTEB cannot load it ({first_line(error)})",
            "check the network, or name a copy of its repository: --data-dir",
        ) from error
    task_rule: IdenticalIds = "drop" if task.ignore_identical_ids else "keep"
    rules = Rules(judgements or "as_published", identical_ids or task_rule)
    builder = BenchmarkBuilder(name, chosen, languages, rules=rules)
    add_task(task, chosen, builder)
    return builder.build()


def add_task(task: Any, split: str, into: BenchmarkBuilder) -> None:
    """Add the loaded subsets of a task (`mteb.AbsTaskRetrieval`).

    Raises:
        UserError: it is not a retrieval of texts from a whole corpus, or two of its subsets have different
            documents of one language.
    """
    corpora: dict[str, dict[str, str]] = {}  # language -> id -> text
    for subset, document_language, question_language in _subsets(task, into.name, into.languages):
        if subset not in task.dataset:
            continue
        data, location = task.dataset[subset][split], f"benchmark {into.name}, {subset}"
        _check_whole_corpus(data, location)
        documents = {
            check_id(row["id"], location, "a document's id"): _document_text(row) for row in data["corpus"]
        }
        if corpora.setdefault(document_language, documents) != documents:
            raise UserError(
                location,
                f"has other documents in {document_language!r} than another subset",
                "evaluate the subsets one by one: add_task of a task with one of them, in a reader of yours",
            )
        for question_id, text in _questions(data["queries"], location):
            into.add_question(
                f"{subset}:{question_id}",
                question_language,
                text,
                location,
                same_as=(question_id, document_language),
            )
        for question_id, judged in data["relevant_docs"].items():
            for item, grade in judged.items():
                into.add_judgement(
                    f"{subset}:{question_id}", str(item), location, document_language, float(grade)
                )
    for language, documents in corpora.items():
        for item, text in documents.items():
            into.add_candidate(item, language, text, f"benchmark {into.name}, document {item}")


def _open_task(name: str, data_dir: Path | None) -> Any:
    try:
        import mteb
        from mteb.abstasks.retrieval import AbsTaskRetrieval
    except ImportError as error:
        raise UserError(
            f"benchmark {name}", f"MTEB cannot be imported ({first_line(error)})", "pip install mteb"
        ) from None
    try:
        task = mteb.get_task(name.removeprefix(PREFIX))
    except KeyError as error:
        raise UserError(f"benchmark {name}", str(error.args[0]), "name a task of MTEB") from None
    if not isinstance(task, AbsTaskRetrieval):
        raise UserError(
            f"benchmark {name}", f"is a task of type {task.metadata.type}", "name a retrieval task"
        )
    if list(task.metadata.modalities) != ["text"]:
        modalities = ", ".join(task.metadata.modalities)
        raise UserError(f"benchmark {name}", f"holds {modalities}", "name a task of texts")
    if task.skip_first_result:
        raise UserError(
            f"benchmark {name}", "leaves out the first result of each question", "name another task"
        )
    if data_dir is not None:
        existing_folder(data_dir, f"name a copy of the repository of {name}")
        dataset = {**task.metadata.dataset, "path": str(data_dir), "revision": None}
        task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    return task


def _splits(task: Any) -> list[str]:
    return list(task.metadata.eval_splits)


def _subsets(task: Any, name: str, languages: tuple[str, ...] | None) -> Iterator[tuple[str, str, str]]:
    """Yield (subset, language of its documents, language of its questions) of each requested subset."""
    for subset, tags in task.metadata.hf_subsets_to_langscripts.items():
        if not task.metadata.is_multilingual and len(tags) > 1:
            if languages is None or len(languages) != 1:
                raise UserError(
                    f"benchmark {name}",
                    f"has texts in {', '.join(tags)} and does not name the language of each",
                    "name one language for all of them: --languages",
                )
            codes = list(languages)
        else:
            codes = [language_at(tag, f"benchmark {name}, {subset}") for tag in tags]
        if len(codes) > 2:
            raise UserError(f"benchmark {name}, {subset}", f"has {len(codes)} languages", "name another task")
        if languages is None or set(codes) <= set(languages):
            yield subset, codes[0], codes[-1]


def _check_whole_corpus(data: Any, location: str) -> None:
    if data.get("top_ranked"):
        raise UserError(
            location, "ranks given candidates of each question", "name a task that searches a corpus"
        )


def _document_text(row: dict[str, Any]) -> str:
    """Return what MTEB gives to the model: title, a space, text, or the text."""
    title, text = row.get("title") or "", row["text"]
    return f"{title} {text}".strip() if title else str(text).strip()


def _questions(queries: Any, location: str) -> Iterator[tuple[str, str]]:
    """Yield (id, text), an instruction behind the text as MTEB joins them."""
    for row in queries:
        text = check_type(row["text"], str, location, "a question", "a text")
        if row.get("instruction"):
            text = f"{text} {row['instruction']}"
        yield check_id(row["id"], location, "a question's id"), text
