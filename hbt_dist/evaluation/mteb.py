"""Give an encoder to MTEB, which scores it on any of its tasks.

    import mteb
    from hbt_dist.evaluation.mteb import MtebEncoder

    mteb.evaluate(MtebEncoder("runs/mine/model"), tasks=mteb.get_tasks(tasks=["ArguAna", "STS17"]))

MTEB's queries are encoded as questions, its documents as passages, with the model's prefixes and limits;
texts of tasks without queries (classification, STS, ...) as questions. Scores are inner products, as in the
evaluator. `--benchmark mteb:NAME` evaluates on a task of MTEB (data/benchmarks/readers/mteb.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hbt_dist.evaluation.embedding_files import Role
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.matrix_rows import Float32
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder


class MtebEncoder:
    """An encoder with the interface of `mteb.EncoderProtocol`.

    Args:
        model: folder or hub name, or an encoder that is loaded.
        settings: precision, batch size and device.
        options: of `load_encoder`, such as text settings.
    """

    def __init__(
        self, model: str | Path | LoadedEncoder, settings: EvaluationSettings | None = None, **options: Any
    ) -> None:
        name = "loaded" if isinstance(model, LoadedEncoder) else Path(model).name
        self.name = f"hbt_dist/{name}"
        self.loaded = model if isinstance(model, LoadedEncoder) else load_encoder(model, **options)
        self._settings = settings or EvaluationSettings()

    @property
    def mteb_model_meta(self) -> Any:
        """Facts about the model for MTEB's result files."""
        from mteb.models import ModelMeta

        facts = {"name": self.name, "embed_dim": self.loaded.encoder.width, "framework": ["PyTorch"]}
        return ModelMeta.create_empty(overwrites=facts)

    def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> Float32:
        """Encode the texts of a data loader.

        Args:
            inputs: yields batches with a list under ``text``.
            prompt_type: MTEB's `document` makes passages, everything else questions.

        Returns:
            (n, D).
        """
        texts = [text for batch in inputs for text in batch["text"]]
        is_document = prompt_type is not None and prompt_type.value == "document"
        role: Role = "passage" if is_document else "question"
        return np.asarray(encode_texts(self.loaded, texts, role, settings=self._settings, progress=False)[:])

    def similarity(self, first: Any, second: Any) -> torch.Tensor:
        """Return the (n, m) inner products of (n, D) and (m, D)."""
        return torch.as_tensor(first) @ torch.as_tensor(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
        """Return the (n,) inner products of the rows of (n, D) and (n, D)."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(dim=-1)
