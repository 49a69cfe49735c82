"""Reads the log that wandb writes for a run, without wandb's own reader."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md).

    wandb puts seven bytes of its own in front, which count as part of the first block.
    """
    at, body = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return
        body += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield body
            body = b""


def records(folder: Path, runs: int = 1) -> dict[str, list[Any]]:
    """Everything in each run's log, by the run's id, once so many runs are written to their end."""
    # wandb's service may still be writing when a run's finish() returns.
    deadline = time.monotonic() + 30
    while True:
        logs = [_parsed(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        ended = [rows for rows in logs if any(row.HasField("exit") for row in rows)]
        if len(logs) == len(ended) >= runs or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    found: dict[str, list[Any]] = {}
    for rows in ended:
        (run,) = {row.run.run_id for row in rows if row.HasField("run")}
        assert run not in found
        found[run] = rows
    return found


def _parsed(path: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(body) for body in logged(path.read_bytes())]


def history(rows: list[Any], key: str) -> dict[int, Any]:
    """The values of a metric, by step."""
    values = {}
    for row in rows:
        if row.HasField("history"):
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in row.history.item
            }
            if key in items:
                values[int(items["_step"])] = items[key]
    return values


def summary(rows: list[Any]) -> dict[str, Any]:
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for row in rows
        if row.HasField("summary")
        for item in row.summary.update
    }
