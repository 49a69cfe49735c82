"""The doctor on what lies outside this process: Ray, Weights & Biases, the hub."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec

from .doctor_finding import Finding, failed, ok, warning
from .track_wandb import has_key

_PATIENCE, _HUB_PATIENCE = 120, 10
"""Seconds to wait for Ray, and for the hub's answer."""
_TASK = """
import logging, ray
ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=100 * 2**20)
print(ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60))
ray.shutdown()
"""


def check_ray() -> list[Finding]:
    """Start Ray, run one task in it, stop it again: in a process of its own."""
    start = time.perf_counter()
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    remedy = "try --local, and see the last lines above; free ports, /tmp and /dev/shm"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TASK],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return [failed("ray", f"no task was done within {_PATIENCE} s", remedy)]
    if done.returncode or not done.stdout.rstrip().endswith("42"):
        lines = (done.stderr or done.stdout).strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        return [failed("ray", f"it does not run a task: {last}", remedy)]
    took = time.perf_counter() - start
    return [ok("ray", f"started, ran a task and stopped, in {took:.0f} s")]


def check_wandb() -> list[Finding]:
    """Whether trials can be tracked there, and with which reach."""
    if find_spec("wandb") is None:
        return [
            ok(
                "wandb",
                "not installed (only tracking=wandb wants it: pip install 'tune-lora[wandb]')",
            )
        ]
    if os.environ.get("WANDB_MODE") == "offline":
        return [ok("wandb", "installed; offline, as WANDB_MODE says")]
    if has_key():
        return [ok("wandb", "installed, and there is an API key")]
    said = "installed, and there is no API key: runs are kept offline, for wandb sync"
    return [warning("wandb", said, "wandb login, if they are to be seen there")]


def check_hub() -> list[Finding]:
    """Whether models can be fetched."""
    from huggingface_hub import constants, get_session

    remedy = "give local folders, or model.offline; models in the hub's cache are found anyway"
    if constants.HF_HUB_OFFLINE:
        return [warning("hub", "switched off by HF_HUB_OFFLINE", f"unset it, or: {remedy}")]
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_PATIENCE).raise_for_status()
    except Exception as error:
        said = f"{constants.ENDPOINT} is not reached: {type(error).__name__}"
        return [warning("hub", said, remedy)]
    return [ok("hub", f"{constants.ENDPOINT} answers")]
