"""Define the settings of the workers and of their Ray cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings


class WorkerSettings(Settings):
    """Number of workers, their resources, and the reaction to failures.

    Launchers other than Ray (torchrun, deepspeed, Slurm) set the number of workers themselves; the global
    batches are the same for every number.
    """

    num_workers: int = Field(
        1, ge=1, description="data-parallel workers; each trains one equal slice of the global batch"
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description="smallest number of workers: Ray may train with fewer workers, and restarts with more "
        "when the cluster has room; global_batch_size must divide by every number between; default: the "
        "number is fixed",
    )
    use_gpu: bool | Literal["auto"] = Field(
        "auto", description="one GPU per worker; auto: if the cluster has any GPU"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs that Ray reserves for each worker")
    memory_gib_per_worker: float | None = Field(
        None,
        gt=0,
        description="host memory that Ray reserves for each worker; set it when offloading to the CPU; "
        "default: Ray counts no memory",
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="how Ray places the workers: packed on few nodes (fast links) or spread over many"
    )
    max_failures: int = Field(
        3, ge=0, description="number of automatic restarts of the training from its last checkpoint"
    )
    start_timeout_seconds: float = Field(
        600, gt=0, description="time limit for the cluster to start the workers"
    )
    address: str | None = Field(
        None,
        description="Ray cluster: host:port, 'auto' (the cluster on this machine), or 'local' (a private "
        "one); default: RAY_ADDRESS, else the cluster on this machine, else a private one",
    )

    @model_validator(mode="after")
    def _check_min_workers(self) -> WorkerSettings:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is above num_workers {self.num_workers}")
        return self

    @property
    def fewest(self) -> int:
        """Return the smallest number of workers that may train."""
        return self.min_workers or self.num_workers
