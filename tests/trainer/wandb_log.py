"""Reads the log that wandb writes for a run, without wandb's own reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md).

    wandb puts seven bytes of its own in front, which count as part of the first block.
    """
    assert data[:4] == b":W&B"
    at, body = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        body += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield body
            body = b""


def records(folder: Path) -> dict[str, list[Any]]:
    """Everything in each run's log, by the run's id."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        rows = [Record.FromString(body) for body in logged(path.read_bytes())]
        (run,) = {row.run.run_id for row in rows if row.HasField("run")}
        assert run not in found
        found[run] = rows
    return found


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
