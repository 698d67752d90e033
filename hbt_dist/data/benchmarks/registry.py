"""List the benchmarks by name, with their reader and their variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hbt_dist.data.benchmarks.settings import IdenticalIds, Judgements
from hbt_dist.data.splits import VARIANTS


@dataclass(frozen=True)
class BenchmarkEntry:
    """Where a benchmark's reader is and what it offers.

    Attributes:
        module: of `hbt_dist.data.benchmarks.readers`.
        function: called with (folder, variant, languages, builder).
        variants: the first one is the default.
        files: function of the module, called with (folder, variant, languages), that lists the files which
            decide the benchmark's content; "" for benchmarks that are always in memory.
        folder: usual name of its folder below the data folder; "" if it needs no files or has no usual name.
        needs_files: whether a folder must be given.
        judgements: default rule for judgements that do not fit the collection (judgements.py): published
            collections have such judgements, a user's files should not.
        identical_ids: default rule for questions that are documents.
        about: description in one line.
        marks: patterns of files; a folder with one of them has the benchmark's form.
    """

    module: str
    function: str
    variants: tuple[str, ...]
    folder: str
    about: str
    needs_files: bool = True
    files: str = ""
    judgements: Judgements = "strict"
    identical_ids: IdenticalIds = "keep"
    marks: tuple[str, ...] = ()


#: Both forms read the split `test`, or the only one.
BEIR_VARIANTS = (
    "separate", "parallel",
    "dev", "validation", "train", "parallel-dev", "parallel-validation", "parallel-train",
)  # fmt: skip
BENCHMARKS: Mapping[str, BenchmarkEntry] = MappingProxyType({
    "xquad-r": BenchmarkEntry(
        "lareqa", "read_lareqa", ("sentence", "sentence+context"), "xquad-r",
        "question to answering sentence, 11 parallel languages (LAReQA)",
    ),
    "mlqa-r": BenchmarkEntry(
        "lareqa", "read_lareqa", ("sentence", "sentence+context"), "mlqa-r",
        "question to answering sentence, 7 languages, 2 to 4 versions of a question (LAReQA)",
    ),
    "squad-parallel": BenchmarkEntry(
        "passages", "read_squad_parallel", VARIANTS, "squad-en-fi",
        "question to passage, held-out articles of SQuAD in Finnish and back-translated English",
    ),
    "exams": BenchmarkEntry(
        "passages", "read_exams", VARIANTS, "exams",
        "exam question to correct choice among all choices, dev part",
    ),
    "mkqa": BenchmarkEntry(
        "parallel", "read_mkqa", VARIANTS, "mkqa", "question to the same question in another language"
    ),
    "ntrex": BenchmarkEntry(
        "parallel", "read_ntrex", VARIANTS, "ntrex",
        "sentence to the same sentence in another language",
    ),
    "tatoeba": BenchmarkEntry(
        "parallel", "read_tatoeba", ("xtreme-r",), "tatoeba",
        "English sentence to its translation, XTREME-R's direction, one pool per language",
    ),
    "belebele": BenchmarkEntry(
        "passages", "read_belebele", ("passage",), "belebele",
        "question to passage, parallel, one JSONL per language",
    ),
    "miracl": BenchmarkEntry(
        "layouts", "read_miracl", ("dev", "train", "testA", "testB"), "miracl",
        "question to Wikipedia passage, monolingual; topics, qrels and corpus per language",
        files="miracl_files", judgements="as_published", marks=("miracl-corpus-v1.0-*",),
    ),
    "mewsli-x": BenchmarkEntry(
        "mewsli_x", "read_mewsli_x", ("test", "dev"), "mewsli-x", "mention in context to entity description",
        files="mewsli_x_files", judgements="as_published", marks=("candidate_set_entities.jsonl*",),
    ),
    "beir": BenchmarkEntry(
        "layouts", "read_beir", BEIR_VARIANTS, "",
        "corpus, queries and qrels as BEIR and MTEB publish them, or a folder per language with them",
        files="beir_files", judgements="as_published", identical_ids="drop",
        marks=("corpus.*", "corpus/*", "*-corpus", "*/corpus.*", "*/corpus"),
    ),
    "mr-tydi": BenchmarkEntry(
        "layouts", "read_mr_tydi", ("test", "dev", "train"), "mr-tydi",
        "question to Wikipedia passage, monolingual; its authors' archives",
        files="mr_tydi_files", judgements="as_published", marks=("mrtydi-v*",),
    ),
    "mmarco": BenchmarkEntry(
        "layouts", "read_mmarco", ("dev.small", "dev"), "mmarco",
        "query to passage, MS MARCO and its translations, parallel",
        files="mmarco_files", judgements="as_published", marks=("collections/*_collection.tsv",),
    ),
    "neuclir": BenchmarkEntry(
        "layouts", "read_neuclir", ("title+description", "title", "description"), "neuclir",
        "topics in several languages to documents of each language (TREC NeuCLIR, HC4)",
        files="neuclir_files", judgements="as_published", marks=("*topics*.jsonl",),
    ),
    "clirmatrix": BenchmarkEntry(
        "layouts", "read_clirmatrix", ("test1", "test2", "dev", "train"), "clirmatrix",
        "title of a Wikipedia article to articles in another language",
        files="clirmatrix_files", judgements="as_published", marks=("BI-139", "MULTI-8", "*.jl*"),
    ),
    "jsonl": BenchmarkEntry(
        "passages", "read_jsonl", ("jsonl",), "", "your questions.jsonl, candidates.jsonl and qrels.tsv",
        files="jsonl_files", marks=("candidates.jsonl*",),
    ),
    "sample": BenchmarkEntry(
        "passages", "read_jsonl", VARIANTS, "", "the embedded sample's held-out facts", needs_files=False
    ),
})  # fmt: skip
