"""The driver's share of a search on a cluster: trials that end at once, on nodes in name only.

    python benchmarks/scaling.py --data PAIRS.jsonl [--nodes 8] [--gpus 8] [--trials 1000]
        [--minutes 7] [--out FILE.json]

Ray starts every node of the cluster on this machine, with GPUs that exist in name only; a worker
process a GPU is started, and serves trial after trial. Study, ledger, run folder and reports are
the real ones. What is measured is what the driver takes of a core and of time, a trial: the nodes
share this machine's cores with it, so the times are an upper bound. Workers are being started in
the first half of the trials; the second is told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from driver_overhead import make_space, search, tenths
from ray.cluster_utils import Cluster


@contextmanager
def cluster_of(nodes: int, gpus: int) -> Iterator[Cluster]:
    """A head that runs no trials, and the nodes."""
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "_system_config": {
            # Else each node starts a process a CPU, of which a job with variables of its own uses
            # none.
            "enable_worker_prestart": False,
            "prestart_worker_first_driver": False,
            # Dozens of processes that start on a few cores keep each other waiting.
            "worker_register_timeout_seconds": 600,
            "health_check_failure_threshold": 100,
        },
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for number in range(nodes):
            cluster.add_node(num_cpus=gpus, num_gpus=gpus, node_name=f"node-{number}")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="stop then, however many have ended")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster_of(given.nodes, given.gpus) as cluster:
        space = make_space(given.data, given.trials, given.sampler, Path(folder))
        if given.minutes is not None:
            limited = space.search.model_copy(update={"time_limit_minutes": given.minutes})
            space = space.model_copy(update={"search": limited})
        start = time.perf_counter()
        moments = search(
            space, Path(folder) / "run", in_process=False, profile=False, address=cluster.address
        )
        whole = time.perf_counter() - start
    count, seconds = len(moments) - 1, tenths(moments)
    begin, end = moments[count // 2], moments[-1]
    later = count - count // 2
    found = {
        "nodes": given.nodes,
        "gpus": given.nodes * given.gpus,
        "trials": count,
        "sampler": given.sampler,
        "cores": psutil.cpu_count(),
        "seconds": whole,
        "seconds_a_trial": (end.wall - moments[0].wall) / count,
        "by_tenths": seconds,
        "driver_core_seconds_a_trial": (end.driver - moments[0].driver) / count,
        "second_half": {
            "seconds_a_trial": (end.wall - begin.wall) / later,
            "driver_core_seconds_a_trial": (end.driver - begin.driver) / later,
        },
    }
    half = found["second_half"]
    print(
        f"{count} trials on {found['gpus']} GPUs of {given.nodes} nodes: {whole:.0f} s; "
        f"{found['seconds_a_trial']:.3f} s a trial (first tenth {seconds[0]:.3f}, median "
        f"{statistics.median(seconds):.3f}, last {seconds[-1]:.3f}), the driver's share "
        f"{found['driver_core_seconds_a_trial']:.3f} s of a core; in the second half "
        f"{half['seconds_a_trial']:.3f} s a trial, the driver's share "
        f"{half['driver_core_seconds_a_trial']:.3f} s",
        flush=True,
    )
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
