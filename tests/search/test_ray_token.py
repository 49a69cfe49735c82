"""Ray's ports are open to the network: without the search's token nobody gets past them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import ray
from tune_lora.search import ray_early

_CLIENT = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", b"fun", timeout=10)
except AuthenticationError as error:
    print("refused")
else:
    print("admitted")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    ray_early.start_ray(1)
    yield str(ray.get_runtime_context().gcs_address)
    ray_early.stop_ray()


def answer(address: str, client: str = _CLIENT, **environment: str) -> str:
    """What a client in another process is told."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", client, address],
        env={**others, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_client_without_the_token_is_refused(address: str) -> None:
    assert answer(address, RAY_AUTH_MODE="disabled") == "refused"
    assert answer(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64) == "refused"
    token = os.environ["RAY_AUTH_TOKEN"]
    assert answer(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "admitted"


def test_token_is_in_no_file_and_no_command_line(address: str) -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    session = ray._private.worker._global_node.get_session_dir_path()
    found = subprocess.run(["grep", "-rl", token, session], capture_output=True, check=False)
    assert found.stdout == b""
    for process in psutil.Process().children(recursive=True):
        assert token not in " ".join(process.cmdline())


_JOIN = """
import sys
from tune_lora.search.ray_cluster import Cluster
from tune_lora.trainer.errors import TrialError
try:
    Cluster(sys.argv[1])
except TrialError as error:
    print(error)
else:
    print("joined")
"""


@pytest.mark.slow
def test_whoever_joins_it_as_a_cluster_needs_its_token(address: str) -> None:
    said = answer(address, _JOIN)
    assert "the cluster asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in said
    token = os.environ["RAY_AUTH_TOKEN"]
    assert answer(address, _JOIN, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "joined"


def test_there_is_no_dashboard(address: str) -> None:
    assert ray._private.worker._global_node.webui_url in (None, "")
