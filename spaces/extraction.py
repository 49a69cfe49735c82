"""A made-up data set for structured extraction: an order, booking or log line in, JSON out.

    rows = generate(seed=0)["train"]
    rows[0]["instruction"], rows[0]["input"], rows[0]["response"], rows[0]["kind"]

The responses are one line of JSON with a fixed order of keys per kind:

    order    item (singular), qty, price (of one), currency (ISO code), city
    booking  name, what, people, date, time ("HH:MM", 24 h), place
             date: "MM-DD", "this-fri" / "next-fri", or "+1d" (days from today)
    log      level (debug|info|warning|error|critical), service, event, ms, retries

Everything comes from the tables in `_phrases`, so the data carries no foreign licence. The texts
are short and the mapping is regular, which a small model learns within tens of steps, while
number words, dates, durations and synonyms leave room for one run to be better than another.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from . import _phrases as tables

_T = TypeVar("_T")
_Slots = dict[str, str]
_Values = dict[str, str | int | float]

SIZES: Final[dict[str, int]] = {"train": 4000, "validation": 500, "test": 500}

_ONES: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty")


class _Draw:
    """Random picks built on `Random.random` alone.

    Python promises the same floats for the same seed in every version; it promises that of no
    other method, `choice` and `shuffle` included.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent


def _number_word(number: int) -> str:
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def _count(draw: _Draw, number: int) -> str:
    """A number in words more often than in digits: the words are what is to be learnt."""
    return _number_word(number) if draw.chance(65) else str(number)


def _an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _quantity(draw: _Draw) -> tuple[str, int]:
    number = draw.pick(tables.QUANTITIES)
    idioms = tables.IDIOMS.get(number, ())
    if idioms and draw.chance(50):
        return draw.pick(idioms), number
    return _count(draw, number), number


def _price(draw: _Draw) -> tuple[str, str, int | float]:
    """As written, the ISO code and the number."""
    code, forms = draw.pick(tables.CURRENCIES)
    form = draw.pick(forms)
    if code in tables.WHOLE:
        amount = draw.between(2, 60) * 50
        return form.format(f"{amount:,}"), code, amount
    units, cents = draw.between(2, 80), draw.pick((0, 0, 25, 50, 90, 99))
    if not cents:
        return form.format(units), code, units
    return form.format(f"{units}.{cents}"), code, (units * 100 + cents) / 100


def _order(draw: _Draw, product: int, city: int) -> tuple[_Slots, _Values]:
    item, plural = tables.PRODUCTS[product]
    said, qty = _quantity(draw)
    price_text, currency, price = _price(draw)
    place = tables.PLACES[city]
    slots = {"goods": f"{said} {plural}", "price": price_text, "city": place}
    return slots, {"item": item, "qty": qty, "price": price, "currency": currency, "city": place}


def _calendar_date(draw: _Draw) -> tuple[str, str]:
    month, day = draw.between(1, 12), draw.between(1, 28)
    name = tables.MONTHS[month - 1]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    nth = f"{day}{suffix}"
    forms = (f"{day} {name}", f"{name} {day}", f"{name} {nth}", f"the {nth} of {name}")
    return draw.pick(forms), f"{month:02d}-{day:02d}"


def _date(draw: _Draw) -> tuple[str, str, str]:
    """As written on its own, as written inside a sentence, and normalised."""
    form = draw.below(100)
    if form < 50:
        text, value = _calendar_date(draw)
        return text, f"on {text}", value
    if form < 85:
        which, weekday = draw.pick(("this", "next")), draw.pick(tables.WEEKDAYS)
        text = f"{which} {weekday}"
        return text, text, f"{which}-{weekday[:3].lower()}"
    text, days = draw.pick(tables.NEARBY_DAYS)
    return text, text, f"+{days}d"


def _spoken_time(hour: int, minute: int) -> str:
    """The clock as people say it, without the half of the day."""
    if minute == 45:
        return f"quarter to {_ONES[hour % 12 + 1]}"
    said = _ONES[(hour - 1) % 12 + 1]
    return {0: said, 15: f"quarter past {said}", 30: f"half past {said}"}[minute]


def _time(draw: _Draw) -> tuple[str, str]:
    hour, minute = draw.between(8, 21), draw.pick((0, 15, 30, 45))
    value = f"{hour:02d}:{minute:02d}"
    half = "am" if hour < 12 else "pm"
    part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    clock = (hour - 1) % 12 + 1
    if value == "12:00" and draw.chance(50):
        return "noon", value
    # "quarter to twelve am" would be wrong, so the last quarter before noon is never spoken.
    if value != "11:45" and draw.chance(60):
        said = _spoken_time(hour, minute)
        return draw.pick((f"{said} {half}", f"{said} in the {part}")), value
    digits = f"{clock}:{minute:02d}" if minute else str(clock)
    return draw.pick((f"{digits} {half}", f"{digits}{half}", value)), value


def _booking(draw: _Draw, bookable: int, city: int) -> tuple[_Slots, _Values]:
    what, place, name = tables.BOOKABLE[bookable], tables.PLACES[city], draw.pick(tables.NAMES)
    people = draw.between(2, 16)
    date_text, on_date, date = _date(draw)
    time_text, time = _time(draw)
    values: _Values = {
        "name": name,
        "what": what,
        "people": people,
        "date": date,
        "time": time,
        "place": place,
    }
    party = draw.pick(tables.PARTIES).format(_count(draw, people))
    slots = {"name": name, "what": what, "a_what": _an(what), "people": party, "place": place}
    return slots | {"date": date_text, "on_date": on_date, "time": time_text}, values


def _duration(draw: _Draw) -> tuple[str, int]:
    """As written and in milliseconds."""
    form = draw.below(6)
    if form == 0:
        amount = draw.between(2, 99) * 10
        return draw.pick((f"{amount}ms", f"{amount} ms")), amount
    if form == 1:
        tenths = draw.between(11, 99)
        number = f"{tenths // 10}.{tenths % 10}"
        return draw.pick((f"{number}s", f"{number} seconds")), tenths * 100
    if form == 2:
        seconds = draw.between(2, 20)
        return f"{_count(draw, seconds)} seconds", seconds * 1000
    if form == 3:
        minutes = draw.between(2, 12)
        return f"{_count(draw, minutes)} minutes", minutes * 60_000
    if form == 4:
        minutes, seconds = draw.between(1, 5), draw.between(1, 5) * 10
        return f"{minutes}m {seconds}s", (minutes * 60 + seconds) * 1000
    return draw.pick((("half a second", 500), ("a second", 1000), ("a minute", 60_000)))


def _retries(draw: _Draw) -> tuple[str, int]:
    number = draw.between(0, 6)
    if number == 0:
        return draw.pick(("no retries", "never retried")), number
    times = {1: "once", 2: "twice"}.get(number, f"{_count(draw, number)} times")
    noun = "retry" if number == 1 else "retries"
    return draw.pick((f"retried {times}", f"{_count(draw, number)} {noun}")), number


def _log(draw: _Draw, service: int, event: int) -> tuple[_Slots, _Values]:
    level, written, said = draw.pick(tables.LEVELS)
    slug, phrases = tables.EVENTS[event]
    took, ms = _duration(draw)
    tried, retries = _retries(draw)
    name = tables.SERVICES[service]
    slots = {
        "level": draw.pick(written),
        "a_level": draw.pick(said),
        "service": name,
        "event": draw.pick(phrases),
        "took": took,
        "retries": tried,
    }
    values: _Values = {"level": level, "service": name, "event": slug, "ms": ms, "retries": retries}
    return slots, values


@dataclass(frozen=True)
class _Kind:
    """One kind of row; `first` and `second` count the two word lists whose pairs are held out."""

    name: str
    wording: tables.Wording
    first: int
    second: int
    fill: Callable[[_Draw, int, int], tuple[_Slots, _Values]]


_CITIES: Final = len(tables.PLACES)
_KINDS: Final = (
    _Kind("order", tables.ORDER, len(tables.PRODUCTS), _CITIES, _order),
    _Kind("booking", tables.BOOKING, len(tables.BOOKABLE), _CITIES, _booking),
    _Kind("log", tables.LOG, len(tables.SERVICES), len(tables.EVENTS), _log),
)


def _home(first: int, second: int) -> str:
    """The one split in which a pair of words may occur; the same for every seed.

    Each word occurs in train; a tenth of its partners are kept for validation and another tenth
    for test.
    """
    return {0: "validation", 1: "test"}.get((first + second) % 10, "train")


def _pair(draw: _Draw, kind: _Kind, split: str) -> tuple[int, int]:
    first = draw.below(kind.first)
    return first, draw.pick([j for j in range(kind.second) if _home(first, j) == split])


def _text(draw: _Draw, kind: _Kind, slots: _Slots) -> str:
    """A filled template, now and then with a greeting before it or an aside after it."""
    wording = kind.wording
    body = draw.pick(wording.templates).format_map(slots)
    if kind.name != "log":
        body = body[0].upper() + body[1:]
    aside = {"name": draw.pick(tables.NAMES)}
    before = draw.pick(wording.openers).format_map(aside) if draw.chance(30) else ""
    after = draw.pick(wording.closers).format_map(aside) if draw.chance(30) else ""
    return f"{before} {body} {after}".strip()


def _row(draw: _Draw, kind: _Kind, split: str) -> dict[str, str]:
    slots, values = kind.fill(draw, *_pair(draw, kind, split))
    return {
        "instruction": draw.pick(kind.wording.instructions),
        "input": _text(draw, kind, slots),
        "response": json.dumps(values, separators=(",", ":")),
        "kind": kind.name,
    }


def generate(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """The data set of this seed: `train` (4000 rows), `validation` (500) and `test` (500).

    A row has the strings `instruction`, `input`, `response` and `kind` ("order", "booking" or
    "log", in turn). No `input` occurs twice in the data set. The pairs (item, city), (what,
    place) and (service, event) of validation and test occur in no other split, whatever the seed.
    The same seed gives the same rows on every Python version.
    """
    draw = _Draw(seed)
    seen: set[str] = set()
    splits: dict[str, list[dict[str, str]]] = {}
    for split, size in SIZES.items():
        rows: list[dict[str, str]] = []
        while len(rows) < size:
            row = _row(draw, _KINDS[len(rows) % len(_KINDS)], split)
            if row["input"] not in seen:
                seen.add(row["input"])
                rows.append(row)
        splits[split] = rows
    return splits
