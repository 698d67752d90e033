"""An evaluation by Ray actors, one of them killed in the middle, gives the digits of one process."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import StoredTexts, StoredTextsWriter
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.results import results_document
from hbt_dist.evaluation.run import score_encoder
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings
from hbt_dist.orchestration.cluster import Cluster, connect
from hbt_dist.orchestration.evaluation import EvaluationActors, evaluate_with_actors
from hbt_dist.orchestration.settings import WorkerSettings


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(folder, texts):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=400, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    folder.mkdir()
    encoder = Encoder(transformers.BertModel(config, add_pooling_layer=False), TextSettings()).eval()
    save_encoder(encoder, fast, folder, card="# model\n")


def evaluate_where_there_is_no_room(cluster, model, benchmark, settings, folder):
    """Another job has taken what one of two actors waits for, and all that a single one waits for."""
    half = cluster.num_cpus / 2
    with EvaluationActors(cluster, 2, cpus=half, start_timeout_seconds=30) as actors:
        own = settings.model_copy(update={"cache_dir": str(folder / "half")})
        found = evaluate_with_actors(actors, model, benchmark, own, progress=False)
        assert len(actors._started) == 1
    with EvaluationActors(cluster, 1, cpus=cluster.num_cpus, start_timeout_seconds=1) as actors:
        own = settings.model_copy(update={"cache_dir": str(folder / "nowhere")})
        with pytest.raises(UserError, match="has started none within 1 s"):
            evaluate_with_actors(actors, model, benchmark, own, progress=False)
    return found


def assert_same_ranks(found, want):
    """Compare the ranks of the full embeddings and of each short form."""
    assert [item.name for item in found.representations] == ["16", "16:int8", "binary"]
    for name in ("pair", "one_target", "pooled", "tied", "scores"):
        np.testing.assert_array_equal(getattr(found.ranks, name), getattr(want.ranks, name))
        for item, cut in found.representations.items():
            expected = getattr(want.representations[item].ranks, name)
            np.testing.assert_array_equal(getattr(cut.ranks, name), expected, err_msg=item.name)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_actor_changes_no_digit(tmp_path):
    benchmark = load_benchmark("sample", languages=["en", "fi", "hu"])
    make_model(tmp_path / "model", list(benchmark.candidate_texts))
    model = {"name_or_path": str(tmp_path / "model")}
    settings = EvaluationSettings(
        device="cpu",
        num_threads=1,
        rows_per_file=32,
        consistency_questions=3,
        widths=(16, "16:int8"),
        precisions=("binary",),
        cache_dir=str(tmp_path / "cache"),
    )
    loaded = load_encoder(**model)
    alone = settings.model_copy(update={"cache_dir": None})
    want = score_encoder(loaded, benchmark, settings=alone, progress=False)
    killed = threading.Event()

    def kill_when_two_files_are_there(process: int) -> None:
        for _ in range(6000):
            if len(list(tmp_path.glob("cache/*/rows-*.npy"))) >= 2:
                os.kill(process, signal.SIGKILL)
                killed.set()
                return
            time.sleep(0.01)

    with (
        connect(WorkerSettings(address="local", num_workers=4)) as cluster,
        EvaluationActors(cluster, 2) as actors,
    ):
        import ray

        process = ray.get(actors.handles[0].process_id.remote())
        thread = threading.Thread(target=kill_when_two_files_are_there, args=(process,))
        thread.start()
        found = evaluate_with_actors(actors, model, benchmark, settings, progress=False)
        thread.join()
        assert killed.is_set()
        assert ray.get(actors.handles[0].process_id.remote()) != process
        searching = settings.model_copy(update={"ranked_lists": "faiss"})
        searched = evaluate_with_actors(actors, model, benchmark, searching, progress=False)
        with StoredTextsWriter(tmp_path / "pool.arrow") as writer:
            writer.append(list(benchmark.candidate_ids), list(benchmark.candidate_texts))
        on_disk = replace(
            benchmark,
            candidate_ids=StoredTexts(tmp_path / "pool.arrow", "id"),
            candidate_texts=StoredTexts(tmp_path / "pool.arrow", "text"),
        )
        elsewhere = settings.model_copy(update={"cache_dir": str(tmp_path / "other")})
        from_disk = evaluate_with_actors(actors, model, on_disk, elsewhere, progress=False)
        actors.on_gpu = True  # two files of an actor at a time
        ahead = settings.model_copy(update={"dtype": "float32", "cache_dir": str(tmp_path / "ahead")})
        files = actors.encode(model, benchmark.candidate_texts, "passage", ahead, progress=False)
        on_one = evaluate_where_there_is_no_room(cluster, model, benchmark, settings, tmp_path)
        with pytest.raises(UserError, match="cache_dir"):
            evaluate_with_actors(actors, model, benchmark, alone, progress=False)
    assert_same_ranks(found, want)
    np.testing.assert_array_equal(found.top.rows, want.top.rows)
    candidates = encode_texts(loaded, benchmark.candidate_texts, "passage", settings=alone, progress=False)
    np.testing.assert_array_equal(files[:], candidates)
    np.testing.assert_allclose(searched.top.scores, want.top.scores, atol=1e-6)
    np.testing.assert_array_equal(searched.ranks.pooled, want.ranks.pooled)
    assert results_document(found) == results_document(want)
    assert results_document(from_disk) == results_document(want)
    np.testing.assert_array_equal(from_disk.top.rows, want.top.rows)
    assert results_document(on_one) == results_document(want)


def test_actors_that_the_cluster_cannot_hold_are_refused() -> None:
    two = Cluster("x:1", False, 4, 2, ({"CPU": 4, "GPU": 2},))
    with pytest.raises(
        UserError, match=r"3 actors x \(1 CPU \+ 1 GPU\) are requested, the cluster at x:1 has 4 CPU"
    ):
        EvaluationActors(two, 3)
    with pytest.raises(UserError, match="only 0 fit on single nodes"):
        EvaluationActors(Cluster("x:1", False, 4, 0, ({"CPU": 2},) * 2), 1, cpus=3)
    empty = Cluster("x:1", False, 0, 0, ({},), {"CPU": 96, "GPU": 8})
    with pytest.raises(UserError, match=r"9 actors x \(1 CPU \+ 1 GPU\)"):  # 8 would wait for the nodes
        EvaluationActors(empty, 9)
    with pytest.raises(UserError, match=r"97 actors x \(1 CPU\)"):
        EvaluationActors(empty, 97, gpus=0)
