"""Analyse searches over training settings: DataFrames in, DataFrames out.

results = load_search("searches/alpha")
front = pareto_front(candidates(results), results.objectives)
importance(results), curve(results, "batches.alpha"), cost(results)
"""

from hbt_dist.analysis.overview import Analysis, analyse
from hbt_dist.analysis.pareto import best_points, knee_point, pareto_front
from hbt_dist.analysis.results import SearchResults, candidates, load_search, seed_means
from hbt_dist.analysis.sensitivity import curve, importance
from hbt_dist.analysis.trials import cost, pair_difference

__all__ = [
    "Analysis",
    "SearchResults",
    "analyse",
    "best_points",
    "candidates",
    "cost",
    "curve",
    "importance",
    "knee_point",
    "load_search",
    "pair_difference",
    "pareto_front",
    "seed_means",
]
