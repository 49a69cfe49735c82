"""The extraction data set: its shape, its sameness, and each value against the text it is from.

The readers below know nothing of the generator's tables for numbers, money, dates, times,
durations and levels: they read the text again, with tables of their own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from tune_lora.spaces import _phrases
from tune_lora.spaces.extraction import generate

Row = dict[str, str]

PINNED = "ab22a84e095a316e2066cf85553886b7ff9c1ecba52fba74b2ee81b01bacc39f"
KEYS = {
    "order": ["item", "qty", "price", "currency", "city"],
    "booking": ["name", "what", "people", "date", "time", "place"],
    "log": ["level", "service", "event", "ms", "retries"],
}
PAIRS = {"order": ("item", "city"), "booking": ("what", "place"), "log": ("service", "event")}

NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
    "twenty-four": 24, "twenty-five": 25, "thirty": 30, "thirty-five": 35, "thirty-six": 36,
    "forty": 40, "forty-eight": 48, "fifty": 50, "one": 1,
    "a pair of": 2, "a couple of": 2, "half a dozen": 6, "a dozen": 12, "one dozen": 12,
    "two dozen": 24, "three dozen": 36, "four dozen": 48,
}  # fmt: skip
NUMBER = r"(?<![\w.-])(" + "|".join(sorted(NUMBERS, key=len, reverse=True)) + r"|\d+)"
MONEY = {
    "$": "USD", "dollars": "USD", "USD": "USD", "€": "EUR", "euros": "EUR", "EUR": "EUR",
    "£": "GBP", "pounds": "GBP", "GBP": "GBP", "¥": "JPY", "yen": "JPY", "₹": "INR",
    "rupees": "INR", "CHF": "CHF", "Swiss francs": "CHF",
}  # fmt: skip
COIN = "|".join(re.escape(sign) for sign in MONEY)
AMOUNT = r"(\d[\d,]*(?:\.\d\d)?)"
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
MONTH = r"(January|February|March|April|May|June|July|August|September|October|November|December)"
LEVELS = {"d": "debug", "i": "info", "w": "warning", "e": "error", "c": "critical", "f": "critical"}
WRITTEN = "debug|dbg|d|info|inf|i|warning|warn|wrn|w|error|err|e|critical|crit|fatal|f"
CLUES = {
    "timeout": "timed out|deadline|gave up",
    "refused": "refused",
    "oom": "memory",
    "disk_full": "disk",
    "slow": "slow",
    "restart": "restarted|came back",
    "auth": "log in|denied",
    "crash": "crashed|unexpectedly",
    "synced": "syncing|caught up",
    "throttled": "throttled|rate limit",
    "db_lost": "database",
    "healthy": "health",
}


def dump(seed: int) -> str:
    text = json.dumps(generate(seed), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def data() -> dict[str, list[Row]]:
    return generate(0)


@pytest.fixture(scope="module")
def rows(data: dict[str, list[Row]]) -> list[Row]:
    return [row for split in data.values() for row in split]


def of_kind(rows: list[Row], kind: str) -> Iterator[tuple[str, dict]]:
    found = [row for row in rows if row["kind"] == kind]
    assert len(found) > 1600
    return ((row["input"], json.loads(row["response"])) for row in found)


def number(text: str) -> int:
    return int(text) if text.isdigit() else NUMBERS[text.lower()]


def only(pattern: str, text: str) -> re.Match[str]:
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    assert len(found) == 1, (pattern, text)
    return found[0]


# ---- shape and sameness -----------------------------------------------------------------------


def test_counts_and_columns(data: dict[str, list[Row]], rows: list[Row]) -> None:
    assert {split: len(found) for split, found in data.items()} == {
        "train": 4000,
        "validation": 500,
        "test": 500,
    }
    for row in rows:
        assert list(row) == ["instruction", "input", "response", "kind"]
        assert all(value and value == value.strip() and "\n" not in value for value in row.values())
        assert "{" not in row["input"]
        assert "  " not in row["input"]
        assert len(row["input"]) <= 200


def test_a_seed_pins_every_byte() -> None:
    assert dump(0) == PINNED
    assert dump(1) != PINNED


def test_another_process_with_another_hash_seed_makes_the_same_rows() -> None:
    code = (
        "import hashlib, json\n"
        "from tune_lora.spaces.extraction import generate\n"
        "text = json.dumps(generate(0), ensure_ascii=False, separators=(',', ':'))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    for hash_seed in ("1", "4242"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == PINNED


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_input_occurs_twice(seed: int) -> None:
    inputs = [row["input"] for split in generate(seed).values() for row in split]
    assert len(set(inputs)) == len(inputs) == 5000


def test_the_kinds_are_balanced_from_the_first_rows_on(data: dict[str, list[Row]]) -> None:
    for split in data.values():
        for count in (12, 100, len(split)):
            seen = Counter(row["kind"] for row in split[:count])
            assert sorted(seen) == sorted(KEYS)
            assert max(seen.values()) - min(seen.values()) <= 1


def test_held_out_pairs_are_new_but_their_words_are_not(data: dict[str, list[Row]]) -> None:
    pairs: dict[str, set[tuple[str, str, str]]] = {}
    for split in data:
        # Another seed's train must not give away this seed's test either.
        for row in data[split] + generate(1)[split]:
            first, second = (json.loads(row["response"])[key] for key in PAIRS[row["kind"]])
            pairs.setdefault(split, set()).add((row["kind"], first, second))
    train, validation, test = pairs["train"], pairs["validation"], pairs["test"]
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)
    trained = {(kind, word) for kind, *words in train for word in words}
    assert {(kind, word) for kind, *words in validation | test for word in words} <= trained


def test_the_wording_is_varied(rows: list[Row]) -> None:
    for wording in (_phrases.ORDER, _phrases.BOOKING, _phrases.LOG):
        assert len(set(wording.templates)) >= 12
        assert len(set(wording.instructions)) >= 3
    assert len({row["instruction"] for row in rows}) == 12
    found = {kind: list(of_kind(rows, kind)) for kind in KEYS}
    assert len({values["item"] for _, values in found["order"]}) >= 30
    assert len({values["currency"] for _, values in found["order"]}) == 6
    assert len({values["name"] for _, values in found["booking"]}) >= 40
    assert len({values["place"] for _, values in found["booking"]}) >= 30
    assert len({values["what"] for _, values in found["booking"]}) >= 20
    assert len({values["service"] for _, values in found["log"]}) >= 20
    assert len({values["level"] for _, values in found["log"]}) == 5


def test_responses_are_compact_json_with_fixed_keys(rows: list[Row]) -> None:
    for row in rows:
        values = json.loads(row["response"])
        assert list(values) == KEYS[row["kind"]]
        assert json.dumps(values, separators=(",", ":")) == row["response"]


# ---- orders -----------------------------------------------------------------------------------


def singular(plural: str) -> str:
    for ending, change in {"knives": "knife", "shelves": "shelf", "scarves": "scarf"}.items():
        if plural.endswith(ending):
            return plural.removesuffix(ending) + change
    if plural.endswith("ies") and plural != "cherry pies":
        return plural[:-3] + "y"
    sibilant = plural.endswith(("shes", "ches", "sses", "xes"))
    return plural[:-2] if sibilant else plural[:-1]


def test_orders_say_what_their_text_says(rows: list[Row]) -> None:
    plurals = "|".join(plural for _, plural in _phrases.PRODUCTS)
    for text, values in of_kind(rows, "order"):
        goods = only(rf"{NUMBER} ({plurals})\b", text)
        assert values["qty"] == number(goods[1]), text
        assert type(values["qty"]) is int
        assert values["item"] == singular(goods[2].lower()), text
        assert len(re.findall(rf"\b{values['city']}\b", text)) == 1, text


def test_prices_are_numbers_with_an_iso_code(rows: list[Row]) -> None:
    for text, values in of_kind(rows, "order"):
        price = only(rf"({COIN}) ?{AMOUNT}|{AMOUNT} ({COIN})", text)
        amount = (price[2] or price[3]).rstrip(",").replace(",", "")
        assert values["currency"] == MONEY[price[1] or price[4]], text
        assert values["price"] == float(amount), text
        assert type(values["price"]) is (float if "." in amount else int), text


# ---- bookings ---------------------------------------------------------------------------------


def read_date(text: str) -> str:
    if calendar := re.search(
        rf"(\d+)(?:st|nd|rd|th)? (?:of )?{MONTH}|{MONTH} (\d+)(?:st|nd|rd|th)?", text
    ):
        month = MONTHS.index((calendar[2] or calendar[3])[:3]) + 1
        return f"{month:02d}-{int(calendar[1] or calendar[4]):02d}"
    if weekday := re.search(r"\b(this|next) (\w{3})\w*day\b", text, re.IGNORECASE):
        return f"{weekday[1]}-{weekday[2]}".lower()
    if "the day after tomorrow" in text:
        return "+2d"
    return "+1d" if "tomorrow" in text else "+0d" if "today" in text else "none"


def read_time(text: str) -> str:
    if clock := re.search(r"\b(\d\d):(\d\d)\b(?! ?[ap]m)", text):
        return clock[0]
    if re.search(r"\bnoon\b", text):
        return "12:00"
    part = r" ?(am\b|pm\b|in the morning|in the afternoon|in the evening)"
    if spoken := re.search(rf"(?:(quarter past|quarter to|half past) )?\b([a-z]+){part}", text):
        shift = {"quarter past": 15, "half past": 30, "quarter to": -15, None: 0}[spoken[1]]
        hour, half = NUMBERS[spoken[2]], spoken[3]
    else:
        digits = only(rf"\b(\d+)(?::(\d\d))?{part}", text)
        shift, hour, half = int(digits[2] or 0), int(digits[1]), digits[3]
    morning = half in ("am", "in the morning")
    minutes = (hour % 12 + (0 if morning else 12)) * 60 + shift
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def test_bookings_say_what_their_text_says(rows: list[Row]) -> None:
    party = rf"{NUMBER} (?:people|guests|of us)|a (?:group|party) of {NUMBER}"
    for text, values in of_kind(rows, "booking"):
        people = only(party, text)
        assert values["people"] == number(people[1] or people[2]), text
        assert len(re.findall(rf"\b{values['name']}\b", text)) == 1, text
        assert len(re.findall(rf"\b{values['place']}\b", text)) == 1, text
        assert len(re.findall(rf"\b{values['what']}\b", text)) == 1, text


def test_dates_and_times_are_normalised(rows: list[Row]) -> None:
    for text, values in of_kind(rows, "booking"):
        assert values["date"] == read_date(text), text
        assert values["time"] == read_time(text), text
        assert re.fullmatch(r"(08|09|1\d|2[01]):(00|15|30|45)", values["time"])


# ---- log lines --------------------------------------------------------------------------------


def read_ms(text: str) -> int:
    text = re.sub(r"\(budget \w+\)", "", text)
    if both := re.search(r"\b(\d+)m (\d+)s\b", text):
        return int(both[1]) * 60_000 + int(both[2]) * 1000
    if single := re.search(r"\b(half a second|a second|a minute)\b", text):
        return {"half a second": 500, "a second": 1000, "a minute": 60_000}[single[1]]
    said = r"(\d+(?:\.\d)?|[a-z]+(?= seconds| minutes)) ?(ms|s|seconds|minutes)"
    took = only(rf"(?<![\w.-]){said}\b", text)
    unit = {"ms": 1, "s": 1000, "seconds": 1000, "minutes": 60_000}
    return round((NUMBERS.get(took[1]) or float(took[1])) * unit[took[2]])


def read_retries(text: str) -> int:
    if re.search("no retries|never retried", text):
        return 0
    found = only(rf"retried (once|twice)|retried {NUMBER} times|{NUMBER} (?:retry|retries)", text)
    said = found[1] or found[2] or found[3]
    return {"once": 1, "twice": 2}.get(said) or number(said)


def read_level(text: str) -> str:
    """As prose says it, else from the first letter of the only word that is a level."""
    said = re.search(r"\ban? (?:plain |mild )?(debug|info|warning|error|critical|fatal)\b", text)
    found = said or only(rf"(?<![\w-])({WRITTEN})(?![\w-])", text)
    return LEVELS[found[1][0].lower()]


def read_events(text: str) -> list[str]:
    return [event for event, clue in CLUES.items() if re.search(clue, text)]


def test_logs_say_what_their_text_says(rows: list[Row]) -> None:
    for text, values in of_kind(rows, "log"):
        assert text.count(values["service"]) == 1, text
        assert read_events(text) == [values["event"]], text
        assert values["ms"] == read_ms(text), text
        assert type(values["ms"]) is int
        assert values["retries"] == read_retries(text), text


def test_levels_are_normalised(rows: list[Row]) -> None:
    for text, values in of_kind(rows, "log"):
        assert values["level"] == read_level(text), text
