"""Train on a private cluster with fewer of Ray Train's processes: each takes a second to start.

A private cluster has one node, never grows, holds no other run and ends with the driver. Ray's processes that
request nodes, watch for nodes that will be taken away, free the resources of a dead controller and divide
data sets of Ray have no work here. Where a version of Ray keeps them elsewhere, they start as usual.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer

_NOT_NEEDED = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class PrivateTrainer(TorchTrainer):
    """A `TorchTrainer` for a private cluster."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in _NOT_NEEDED]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = arguments.get("scaling_policy")
        if type(policy) is FixedScalingPolicy:
            arguments["scaling_policy"] = _WithoutRequests(policy.scaling_config)
        return super()._initialize_and_run_controller(**arguments)


class _WithoutRequests(FixedScalingPolicy):
    """Request no nodes: Ray would start a process for the requests and wait for it."""

    def after_controller_start(self, *_: Any) -> None:
        pass

    async def before_controller_shutdown(self) -> None:
        pass

    def before_controller_abort(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
