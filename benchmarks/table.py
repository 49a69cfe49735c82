"""Table and figure of ``peers.py``'s results.

    python benchmarks/table.py docs/performance/peers.json [--page docs/performance.md]

The table goes between the page's markers of the results' name (``<!-- peers: begin -->``), the
figure beside the results, as SVG.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Spread:
    """Median and range of a contestant's runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """``12 (11-14)``."""
        low, high = format(self.low, form), format(self.high, form)
        return f"{self.median:{form}} ({low}-{high})"


@dataclass(frozen=True)
class Line:
    """One contestant.

    Attributes:
        steps: optimizer steps trained in all, of the last run.
        best: lowest validation loss, as the contestant computes it.
    """

    name: str
    label: str
    threads: str
    stopping: bool
    runs: int
    seconds: Spread
    cpu: Spread
    peak: Spread
    best: Spread
    steps: int


def lines_of(found: Mapping[str, Any]) -> list[Line]:
    """A line for every contestant that has run, in the order of the results."""
    made = []
    for contestant in found["contestants"]:
        runs = [run for run in found["runs"] if run["contestant"] == contestant["name"]]
        if not runs:
            continue
        made.append(
            Line(
                contestant["name"],
                contestant["label"],
                contestant["threads"],
                contestant["stopping"],
                len(runs),
                Spread.of([run["seconds"] for run in runs]),
                Spread.of([run["cpu_seconds"] for run in runs]),
                Spread.of([run["peak_bytes"] / GIB for run in runs]),
                Spread.of([run["best_eval"] for run in runs]),
                sum(c["steps"] for c in runs[-1]["configurations"].values()),
            )
        )
    return made


def markdown(found: Mapping[str, Any]) -> str:
    """The main table, and the losses by configuration."""
    lines = lines_of(found)
    floor = next((line.seconds.median for line in lines if line.name == "floor"), None)
    work, machine = found["workload"], found["machine"]
    head = (
        f"{work['configurations']} configurations of {work['steps']} steps, batch {work['batch']}, "
        f"evaluated every {work['every']} on {work['validation_rows']} rows; {machine['cpu']}, "
        f"{machine['cores']} cores; medians (smallest-largest) of "
        f"{max((line.runs for line in lines), default=0)} runs; "
        f"{', '.join(f'{name} {version}' for name, version in found['versions'].items())}."
    )
    against = " of the floor's |" if floor else ""
    rows = [
        f"| | stops early | makespan, s |{against} CPU, s | peak memory, GiB | steps "
        "| best validation loss | threads |",
        f"|---|---|--:|{'--:|' if floor else ''}--:|--:|--:|--:|---|",
    ]
    for line in lines:
        ratio = f"| {line.seconds.median / floor:.2f} " if floor else ""
        rows.append(
            f"| {line.label} | {'yes' if line.stopping else 'no'} | {line.seconds.text('.0f')} "
            f"{ratio}| {line.cpu.text('.0f')} | {line.peak.text('.2f')} | {line.steps} "
            f"| {line.best.median:.4f} | {line.threads} |"
        )
    return "\n".join([head, "", *rows, "", *_losses(found, lines)])


def _losses(found: Mapping[str, Any], lines: Sequence[Line]) -> list[str]:
    """Every configuration's last validation loss, and in how many steps; of the last run."""
    last = {run["contestant"]: run["configurations"] for run in found["runs"]}
    columns: list[tuple[str, str, str]] = []
    for line in lines:
        columns.append((line.name, "eval", line.name))
        if all("eval_of_rows" in entry for entry in last[line.name].values()):
            columns.append((line.name, "eval_of_rows", f"{line.name}, mean of rows"))
    rows = [
        f"| configuration | {' | '.join(title for *_, title in columns)} |",
        "|---" + "|--:" * len(columns) + "|",
    ]
    for number, configuration in enumerate(found["configurations"]):
        cells = [_loss(last[name].get(str(number)), key) for name, key, _ in columns]
        rows.append(f"| {_short(configuration)} | {' | '.join(cells)} |")
    return rows


def _loss(entry: Mapping[str, Any] | None, key: str) -> str:
    if entry is None or not entry[key]:
        return "-"
    step = max(entry[key], key=int)
    return f"{entry[key][step]:.4f} @ {step}"


def _short(configuration: Mapping[str, Any]) -> str:
    c = configuration
    return f"r {c['r']}, alpha {c['lora_alpha']}, {c['target_modules']}, {c['learning_rate']:g}"


def figure(found: Mapping[str, Any]) -> str:
    """Makespans as horizontal bars, the spread as whiskers."""
    lines = lines_of(found)
    left, width, height, top = 380, 420, 24, 34
    longest = max(line.seconds.high for line in lines)

    def x(seconds: float) -> float:
        return round(left + width * seconds / longest, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" '
        f'height="{top + height * len(lines) + 16}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20">makespan of the search, seconds (median, range)</text>',
    ]
    for place, line in enumerate(lines):
        y = top + place * height
        middle = y + height / 2
        low, mid, high = (x(s) for s in (line.seconds.low, line.seconds.median, line.seconds.high))
        color = "#c44e52" if line.name.startswith("tune-lora") else "#8c8c8c"
        color = "#55a868" if line.name.startswith("floor") else color
        label = escape(line.label + (", stopping early" if line.stopping else ""))
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{label}</text>',
            f'<rect x="{left}" y="{y + 4}" width="{round(mid - left, 1)}" height="{height - 8}" '
            f'fill="{color}"/>',
            f'<path d="M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8" '
            'stroke="black" fill="none"/>',
            f'<text x="{high + 6}" y="{middle + 4}">{line.seconds.median:.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def into_page(page: Path, name: str, text: str) -> None:
    """Put the text between the page's markers of that name.

    Raises:
        ValueError: the page lacks them.
    """
    whole = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in whole or end not in whole:
        raise ValueError(f"{page}: has no markers {begin} and {end}")
    before, rest = whole.split(begin, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("json", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    found = json.loads(given.json.read_text(encoding="utf-8"))
    text = markdown(found)
    picture = given.json.with_suffix(".svg")
    picture.write_text(figure(found), encoding="utf-8")
    if given.page is None:
        print(text)
    else:
        link = os.path.relpath(picture, given.page.parent)
        into_page(given.page, given.json.stem, f"![Makespans as bars]({link})\n\n{text}")


if __name__ == "__main__":
    main()
