"""Score a benchmark from embeddings: one pass, every setting.

    evaluation = evaluate(benchmark, question_embeddings, candidate_embeddings)
    print(summary(evaluation))
    write_evaluation(evaluation, folder)            # writing.py

XQuAD-R (13,090 questions, 13,014 candidates, width 384) takes a few seconds on two cores; see
benchmarks/evaluation/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from hbt_dist.common.devices import torch_device
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import user_digests
from hbt_dist.data.language_facts import was_seen
from hbt_dist.evaluation.bias import (
    question_bias,
    ranking_consistency,
    same_language_share,
    summarise_bias,
)
from hbt_dist.evaluation.device_shard import open_shard
from hbt_dist.evaluation.faiss_lists import faiss_top_lists
from hbt_dist.evaluation.matrix_rows import Float64, Int64, Rows, check_shapes
from hbt_dist.evaluation.metrics import user_metrics
from hbt_dist.evaluation.pair_matrix import (
    PairMatrix,
    QuestionTable,
    chance_means,
    pair_matrix,
    question_tables,
    setting_means,
)
from hbt_dist.evaluation.plan import ScoringPlan, block_sizes, plan_scoring
from hbt_dist.evaluation.ranks import RelevantRanks, TopLists, rank_relevant
from hbt_dist.evaluation.read_results import SETTINGS, title_of
from hbt_dist.evaluation.representations import represented
from hbt_dist.evaluation.settings import EvaluationSettings, Representation
from hbt_dist.evaluation.shard import arrange_questions
from hbt_dist.evaluation.shown import ShownEvaluation, evaluations_html

if TYPE_CHECKING:
    import pandas as pd

    from hbt_dist.data.benchmarks.benchmark import Benchmark

#: Ranks of the relevant candidates, and the ranked lists if `top_k` is not 0.
Ranked = tuple[RelevantRanks, TopLists | None]
#: Computes them from benchmark, plan, the embeddings of questions and candidates, and settings.
Rank = Callable[["Benchmark", ScoringPlan, Rows, Rows, EvaluationSettings], Ranked]


class EmbeddingTransform(Protocol):
    """What changes embeddings before they are scored."""

    def __call__(
        self,
        benchmark: Benchmark,
        questions: Rows,
        candidates: Rows,
        question_of: Int64 | None = None,
    ) -> tuple[Rows, Rows, dict[str, Any]]:
        """Return questions, candidates, and facts for provenance.

        Args:
            benchmark: whose texts were embedded.
            questions: (Q, D), or (n, D) with `question_of`.
            candidates: (N, D).
            question_of: (n,) question row of each vector where a question has several (the runs of a fusion).
        """


@dataclass(frozen=True)
class Evaluation:
    """The results of one scoring pass, without texts."""

    benchmark: Benchmark
    ranks: RelevantRanks
    top: TopLists | None
    tables: dict[str, QuestionTable]  # "pair", "one_target", "multilingual"
    pair_matrix: PairMatrix  # per-pair pools
    one_target_matrix: PairMatrix  # pool of all languages, one target
    means: dict[str, dict[str, dict[str, float]]]  # setting -> macro | micro -> metric
    question_bias: dict[str, Float64]  # measure -> (Q,)
    bias: dict[str, dict[str, object]]  # measure -> macro, micro, by_language, ...
    consistency: dict[str, object] | None
    seen_languages: tuple[str, ...] | None  # languages of the training data, where known
    provenance: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, Any] | None = None  # counts of cut texts, see `text_counts`
    width: int = 0  # of the embeddings; 0: not recorded
    #: Evaluations of cut and quantised embeddings, see `EvaluationSettings.widths`; without ranked lists.
    representations: Mapping[Representation, Evaluation] = field(default_factory=dict)

    def pairs(self, metric: str = "map") -> pd.DataFrame:
        """Return a metric of every language pair: rows question languages, columns candidate languages.

        Args:
            metric: such as ``map``, ``mrr``, ``recall@10``, ``ndcg@10``.

        Raises:
            UserError: the metric was not measured.
        """
        return self.shown.frame(metric)

    @property
    def shown(self) -> ShownEvaluation:
        """What people see of it in a notebook."""
        name, variant = self.benchmark.name, self.benchmark.variant
        facts = {"benchmark": {"name": name, "variant": variant}, "provenance": self.provenance}
        return ShownEvaluation(
            title_of(facts),
            self.benchmark.languages,
            self.pair_matrix.values,
            {setting: self.means[setting]["macro"]["map"] for setting in SETTINGS},
            [was_seen(code, self.seen_languages) is False for code in self.benchmark.languages],
            chance_means(self.benchmark, self.tables),
        )

    def __repr__(self) -> str:
        return self.shown.text()

    def _repr_html_(self) -> str:
        return evaluations_html({"": self.shown})


def evaluate(
    benchmark: Benchmark,
    question_embeddings: Rows,
    candidate_embeddings: Rows,
    *,
    settings: EvaluationSettings | None = None,
    seen_languages: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    transform: EmbeddingTransform | None = None,
    rank: Rank | None = None,
    on_gpu: bool | None = None,
    texts: dict[str, Any] | None = None,
    normalized: bool = True,
) -> Evaluation:
    """Rank every relevant candidate exactly and derive all tables.

    Args:
        benchmark: Q questions and N candidates with relevance.
        question_embeddings: (Q, D), any float type, in memory or memory-mapped; the score of a pair is the
            inner product, so cosine similarity needs normalised rows.
        candidate_embeddings: (N, D).
        settings: shards, threads, device, list length, language removal.
        seen_languages: languages of the training data, to report seen and unseen languages apart.
        provenance: what to record about the model and its making.
        transform: changes the embeddings first, such as `hbt_dist.methods.language_removal.LanguageRemoval`.
        rank: computes the ranks, such as Ray actors do; default: this process.
        on_gpu: whether `rank` has GPUs, which get larger blocks; default: whether this process has one.
        texts: how many texts were cut, from `hbt_dist.evaluation.text_counts.text_counts`.
        normalized: whether the embeddings have length 1; then cut embeddings are scaled to length 1 again.

    Raises:
        ValueError: the settings name a language removal, but the transform is missing.
        UserError: the embeddings do not fit the benchmark, a vector cannot be ranked, or a width of the
            settings is larger than the embeddings'.
    """
    settings, facts = settings or EvaluationSettings(), dict(provenance or {})
    questions, candidates = question_embeddings, candidate_embeddings
    check_shapes(questions, candidates, benchmark.num_questions, benchmark.num_candidates, benchmark.name)
    if settings.language_removal != "none" and transform is None:
        raise ValueError("settings.language_removal needs a transform, see methods.language_removal")
    if transform is not None:
        questions, candidates, changes = transform(benchmark, questions, candidates)
        facts |= changes
    if on_gpu is None:
        on_gpu = torch_device(settings.device).type != "cpu"
    plan = plan_scoring(benchmark, *block_sizes(benchmark, on_gpu))
    chosen = settings.representations(questions.shape[1])

    def scored(questions: Rows, candidates: Rows) -> Evaluation:
        ranks, top = (rank or rank_in_process)(benchmark, plan, questions, candidates, settings)
        consistency = None
        if settings.consistency_questions != 0:
            consistency = ranking_consistency(
                benchmark, plan, questions, candidates, num_ids=settings.consistency_questions
            )
        return assemble(
            benchmark,
            ranks,
            top,
            consistency=consistency,
            seen_languages=seen_languages,
            provenance=facts,
            metrics=settings.metrics,
            texts=texts,
        )

    evaluation, representations = scored(questions, candidates), {}
    normalized |= settings.language_removal != "none"  # which scales what it changes
    for item, matrices in represented(chosen, questions, candidates, normalized).items():
        try:
            made = scored(*matrices)
        except UserError as error:
            location = f"representation {item.name}, {error.location}"
            raise UserError(location, error.problem, error.remedy) from error
        provenance = {**made.provenance, "representation": {"name": item.name, **asdict(item)}}
        representations[item] = replace(made, top=None, provenance=provenance, width=item.width)
    return replace(evaluation, width=questions.shape[1], representations=representations)


def rank_in_process(
    benchmark: Benchmark,
    plan: ScoringPlan,
    questions: Rows,
    candidates: Rows,
    settings: EvaluationSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> Ranked:
    """Rank with all shards in this process.

    Args:
        progress: called with the number of questions ranked so far.
    """
    arranged = arrange_questions(plan, questions, question_names(benchmark))
    blocks = plan.shard_blocks(settings.num_shards)
    top_k = plan.num_kept(settings.top_k)
    searched = settings.ranked_lists == "faiss" and top_k > 0
    threads = settings.num_threads or torch.get_num_threads()
    shards = [
        open_shard(
            plan,
            part,
            arranged,
            candidates,
            device=torch_device(settings.device),
            candidate_ids=benchmark.candidate_ids,
            top_k=0 if searched else top_k,
            num_threads=threads,
            num_shards=len(blocks),
        )
        for part in blocks
    ]
    at_once = min(shard.blocks_at_once for shard in shards)
    ranks, top = rank_relevant(plan, shards, blocks_at_once=at_once, progress=progress)
    if searched:
        top = faiss_top_lists(
            plan,
            questions,
            candidates,
            top_k,
            device=torch_device(settings.device),
            num_shards=settings.num_shards,
            num_threads=threads,
        )
    return ranks, top


def question_names(benchmark: Benchmark) -> list[str]:
    """Return the question ids with their language, for error messages."""
    return [
        f"{question_id} ({benchmark.languages[language]})"
        for question_id, language in zip(
            benchmark.question_ids, np.asarray(benchmark.question_language).tolist(), strict=True
        )
    ]


def assemble(
    benchmark: Benchmark,
    ranks: RelevantRanks,
    top: TopLists | None,
    *,
    consistency: dict[str, object] | None = None,
    seen_languages: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    metrics: Sequence[str] = (),
    texts: dict[str, Any] | None = None,
) -> Evaluation:
    """Derive all tables from ranks.

    Args:
        metrics: user-defined, ``module:function`` each.
        texts: see `evaluate`.
    """
    tables = question_tables(benchmark, ranks, user_metrics(metrics))
    facts = dict(provenance or {})
    digests = {**facts.get("user_functions", {}), **user_digests(metrics)}
    bias_values = question_bias(benchmark, tables["multilingual"], ranks.pooled)
    if top is not None:
        bias_values |= same_language_share(benchmark, top)
    return Evaluation(
        benchmark=benchmark,
        ranks=ranks,
        top=top,
        tables=tables,
        pair_matrix=pair_matrix(benchmark, tables["pair"]),
        one_target_matrix=pair_matrix(benchmark, tables["one_target"]),
        means=setting_means(benchmark, tables),
        question_bias=bias_values,
        bias=summarise_bias(benchmark, bias_values),
        consistency=consistency,
        seen_languages=None if seen_languages is None else tuple(seen_languages),
        provenance={**facts, "user_functions": digests} if digests else facts,
        texts=texts,
    )
