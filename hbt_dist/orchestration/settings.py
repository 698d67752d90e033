"""Settings of the workers and of the Ray cluster they run on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings


class WorkerSettings(Settings):
    """How many workers Ray starts, with what, and what happens when one dies.

    Launchers other than Ray (torchrun, deepspeed, Slurm) bring their own number of workers; the global
    batches are the same for every number.
    """

    num_workers: int = Field(
        1, ge=1, description="data-parallel workers; the global batch is cut into so many slices"
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Ray may also train with fewer workers, down to so many, and starts again with more when "
        "the cluster has room; global_batch_size must divide by every number between; by default the number "
        "is fixed",
    )
    use_gpu: bool | Literal["auto"] = Field(
        "auto", description="one GPU per worker; auto: if the cluster has any GPU"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs that Ray reserves for each worker")
    memory_gib_per_worker: float | None = Field(
        None,
        gt=0,
        description="host memory that Ray reserves for each worker; give it when offloading to the CPU; "
        "none: Ray counts no memory",
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="how Ray places the workers: packed on few nodes (fast links) or spread over many"
    )
    max_failures: int = Field(
        3, ge=0, description="how often training restarts from the last checkpoint by itself"
    )
    start_timeout_seconds: float = Field(
        600, gt=0, description="give up when the cluster has not started the workers after so long"
    )
    address: str | None = Field(
        None,
        description="Ray cluster: host:port, 'auto' (the one running here), or 'local' (a private one); "
        "by default RAY_ADDRESS, else the one running here, else a private one",
    )

    @model_validator(mode="after")
    def _fewer(self) -> WorkerSettings:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is above num_workers {self.num_workers}")
        return self

    @property
    def fewest(self) -> int:
        """The smallest number of workers that may train."""
        return self.num_workers if self.min_workers is None else self.min_workers
