"""Notify Ray before this spot machine is removed, so that training saves in time.

    python launchers/preemption_watcher.py --cloud aws     (gcp, azure) on every spot node, next to Ray

Poll the cloud's metadata service every few seconds. At the first notice run `ray drain-node` for this node
with the remaining time, and end. Ray then starts nothing on this node and notifies the workers, which write
a checkpoint. Ray and KubeRay do this only if a cloud's controller notifies them. Needs the standard library
and the `ray` command. Exit code: 0 notice forwarded, 1 failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

AWS = "http://169.254.169.254/latest"
GCP = "http://metadata.google.internal/computeMetadata/v1/instance/preempted"
AZURE = "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01"
#: Seconds between notice and end that the clouds promise, for notices without a time.
GRACE = {"aws": 120, "gcp": 30, "azure": 30}


def fetch(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """Return the body of a metadata page, or None without a page or an answer."""
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, TimeoutError, OSError):
        return None


def seconds_left(cloud: str, base: str | None) -> float | None:
    """Return the seconds until the cloud removes this machine, or None without a notice."""
    if cloud == "aws":
        root = base or AWS
        token = fetch(f"{root}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        headers = {"X-aws-ec2-metadata-token": token} if token else {}
        notice = fetch(f"{root}/meta-data/spot/instance-action", headers)
        if notice is None:
            return None
        end = datetime.fromisoformat(json.loads(notice)["time"].replace("Z", "+00:00"))
        return max(1.0, (end - datetime.now(UTC)).total_seconds())
    if cloud == "gcp":
        notice = fetch(base or GCP, {"Metadata-Flavor": "Google"})
        return GRACE["gcp"] if notice is not None and notice.strip().upper() == "TRUE" else None
    notice = fetch(base or AZURE, {"Metadata": "true"})
    events = json.loads(notice)["Events"] if notice else []
    return GRACE["azure"] if any(event["EventType"] == "Preempt" for event in events) else None


def drain_command(address: str | None, node_id: str | None, seconds: float) -> list[str]:
    """Return the command that announces the end of a node to Ray; default: the node on this machine."""
    return [
        *("ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", "the cloud removes this machine"),
        *("--deadline-remaining-seconds", str(max(1, int(seconds)))),
        *(("--address", address) if address else ()),
        *(("--node-id", node_id) if node_id else ()),
    ]


def main() -> int:
    """Watch until a notice comes, and forward it to Ray."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cloud", choices=sorted(GRACE), required=True)
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        help="Ray cluster; default: the cluster on this machine",
    )
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--metadata", help="address of the metadata service, for tests")
    parser.add_argument("--node-id", help="default: the node on this machine")
    options = parser.parse_args()
    while (left := seconds_left(options.cloud, options.metadata)) is None:
        time.sleep(options.every)
    print(f"the cloud removes this machine in {left:.0f} s", flush=True)
    environment = dict(os.environ)
    if options.address:
        # Without --node-id Ray finds this machine's node in the cluster of this variable, not of --address.
        environment["RAY_ADDRESS"] = options.address
    command = drain_command(options.address, options.node_id, left)
    return 1 if subprocess.run(command, env=environment, check=False).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
