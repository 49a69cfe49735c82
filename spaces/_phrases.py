"""The words and sentence templates that `extraction` draws from; all of them made up here.

Only tables live here. Changing, adding or reordering an entry changes every generated data set,
and the hash that its test pins.
"""

from typing import Final, NamedTuple

Words = tuple[str, ...]


class Wording(NamedTuple):
    """How the rows of one kind are worded; openers and closers are noise around the template."""

    instructions: Words
    templates: Words
    openers: Words
    closers: Words


# ---- orders ---------------------------------------------------------------------------------

# (the singular that goes into the JSON, the plural that stands in the text)
PRODUCTS: Final[tuple[tuple[str, str], ...]] = (
    ("desk lamp", "desk lamps"), ("paint brush", "paint brushes"), ("bread knife", "bread knives"),
    ("battery", "batteries"), ("bookshelf", "bookshelves"), ("torch", "torches"),
    ("wool scarf", "wool scarves"), ("office chair", "office chairs"), ("mug", "mugs"),
    ("notebook", "notebooks"), ("garden hose", "garden hoses"), ("wine glass", "wine glasses"),
    ("toothbrush", "toothbrushes"), ("coffee grinder", "coffee grinders"), ("candle", "candles"),
    ("tea tray", "tea trays"), ("raincoat", "raincoats"), ("bike bell", "bike bells"),
    ("wall clock", "wall clocks"), ("cherry pie", "cherry pies"), ("cushion", "cushions"),
    ("hammer", "hammers"), ("toolbox", "toolboxes"), ("plant pot", "plant pots"),
    ("keyboard", "keyboards"), ("mouse mat", "mouse mats"), ("chess set", "chess sets"),
    ("backpack", "backpacks"), ("water bottle", "water bottles"), ("umbrella", "umbrellas"),
    ("bath towel", "bath towels"), ("ladder", "ladders"), ("picnic box", "picnic boxes"),
    ("guitar string", "guitar strings"), ("yoga mat", "yoga mats"), ("kettle", "kettles"),
    ("football", "footballs"), ("door handle", "door handles"), ("teddy bear", "teddy bears"),
    ("folding table", "folding tables"),
)  # fmt: skip

QUANTITIES: Final[tuple[int, ...]] = (*range(2, 21), 24, 25, 30, 35, 36, 40, 48, 50)

# Ways to say a quantity other than its digits or its number word.
IDIOMS: Final[dict[int, Words]] = {
    2: ("a pair of", "a couple of"),
    6: ("half a dozen",),
    12: ("a dozen", "one dozen"),
    24: ("two dozen",),
    36: ("three dozen",),
    48: ("four dozen",),
}

# ISO code: how an amount is written; the currencies in WHOLE have no decimals here.
CURRENCIES: Final[tuple[tuple[str, Words], ...]] = (
    ("USD", ("${}", "{} dollars", "USD {}")),
    ("EUR", ("€{}", "{} euros", "{} EUR")),
    ("GBP", ("£{}", "{} pounds", "GBP {}")),
    ("JPY", ("¥{}", "{} yen")),
    ("INR", ("₹{}", "{} rupees")),
    ("CHF", ("CHF {}", "{} Swiss francs")),
)
WHOLE: Final[Words] = ("JPY", "INR")

ORDER: Final = Wording(
    instructions=(
        "Extract the order as JSON.",
        "Turn this order into JSON.",
        "Read the order, reply in JSON.",
        "Order to JSON:",
    ),
    templates=(
        "Please send {goods} to {city} at {price} each.",
        "I'd like {goods}, {price} apiece, delivered to {city}.",
        "Can you ship {goods} to {city}? The price is {price} each.",
        "We need {goods} for our {city} office, {price} per piece.",
        "{goods} to {city} please, {price} each as agreed.",
        "Put me down for {goods} at {price} each, going to {city}.",
        "Our shop in {city} has run out: {goods} at {price} each, please.",
        "Order for {city}: {goods}, unit price {price}.",
        "At {price} each I'll take {goods}. Ship them to {city}.",
        "Could I get {goods} sent over to {city}? You quoted {price} each.",
        "The catalogue says {price} each, so add {goods} for {city}.",
        "{city} branch here, we want {goods} at {price} apiece.",
        "Deliver to {city}: {goods}. They cost {price} each.",
        "Same as last year, {goods} for {city}, now {price} each.",
    ),
    openers=(
        "Hi there.", "Hello!", "Good morning.", "Hey team!", "Me again.",
        "Sorry for the late note.", "Hi, {name} here.", "Ref 4471.", "Forget my mail from Monday.",
    ),
    closers=(
        "Thanks!", "No rush.", "Cheers, {name}.", "Please gift-wrap them.",
        "Ring twice at number 7.", "The last delivery was great.", "Invoice as usual.",
        "{name} will sign for it.",
    ),
)  # fmt: skip

# ---- bookings -------------------------------------------------------------------------------

BOOKABLE: Final[Words] = (
    "table", "meeting room", "tennis court", "boat tour", "cooking class", "escape room",
    "karaoke room", "bowling lane", "minibus", "wine tasting", "museum tour", "yoga class",
    "picnic spot", "photo session", "spa visit", "guided walk", "pottery class", "dance lesson",
    "ferry crossing", "campsite", "sauna slot", "climbing session", "kayak trip", "film screening",
)  # fmt: skip
NAMES: Final[Words] = (
    "Priya", "Tom", "Aisha", "Lukas", "Mei", "Carlos", "Ingrid", "Omar", "Nadia", "Felix",
    "Hana", "Pedro", "Greta", "Samir", "Chloe", "Viktor", "Lina", "Ravi", "Elsa", "Diego",
    "Yuki", "Marta", "Kofi", "Irene", "Paul", "Zara", "Anton", "Leila", "Hugo", "Sofia",
    "Ben", "Amara", "Jonas", "Rosa", "Emil", "Fatima", "Oscar", "Wanda", "Nils", "Tara",
    "Ivan", "Bea", "Malik", "Judith",
)  # fmt: skip
PLACES: Final[Words] = (
    "Leeds", "Lisbon", "Oslo", "Turin", "Boston", "Kyoto", "Lyon", "Bergen", "Porto", "Dublin",
    "Ghent", "Austin", "Zurich", "Munich", "Delhi", "Quito", "Malmo", "Bristol", "Denver", "Osaka",
    "Seville", "Prague", "Hanoi", "Nairobi", "Perth", "Glasgow", "Vienna", "Athens", "Lima",
    "Tampa", "Krakow", "Basel", "Cardiff", "Ottawa", "Bilbao", "Riga",
)  # fmt: skip
WEEKDAYS: Final[Words] = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
MONTHS: Final[Words] = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
# (as written, days from today)
NEARBY_DAYS: Final[tuple[tuple[str, int], ...]] = (
    ("today", 0), ("tomorrow", 1), ("the day after tomorrow", 2),
)  # fmt: skip

PARTIES: Final[Words] = ("{} people", "{} guests", "{} of us", "a group of {}", "a party of {}")

BOOKING: Final = Wording(
    instructions=(
        "Extract the booking as JSON.",
        "Turn this booking into JSON.",
        "Read the booking, reply in JSON.",
        "Booking to JSON:",
    ),
    templates=(
        "Please book {a_what} in {place} for {people} {on_date} at {time}, name {name}.",
        "{name} here, I need {a_what} for {people} in {place}, {date} at {time}.",
        "Can I reserve {a_what} {on_date}? It's for {people} at {time} in {place}, under {name}.",
        "Booking for {name}: {what} in {place}, {people}, {date}, {time}.",
        "It's {name}, and {on_date} at {time} we want {a_what} in {place} for {people}.",
        "Is {a_what} free in {place} {on_date} at {time}? For {people}, under {name}.",
        "Put {name} down for {a_what} at {time} {on_date}, {place}, {people}.",
        "{name} would like {a_what} at your {place} site {on_date}, {time}, for {people}.",
        "Hold {a_what} in {place} for {people}. {name} will come {on_date} at {time}.",
        "We'd love {a_what} in {place}: {date}, {time}, {people}. The name is {name}.",
        "At {time} {on_date}, {people}, {a_what} in {place}. Ask for {name}.",
        "My name is {name} and I'd like {a_what} in {place} at {time} {on_date} for {people}.",
        "Reservation: {what}, {place}, {date}, {time}, {people}, {name}.",
        "{people} coming to {place} {on_date}, so please keep {a_what} at {time} for {name}.",
    ),
    openers=(
        "Hi there.", "Hello!", "Good evening.", "Hey!", "Quick one.", "Long time no see!",
        "I tried to call.",
    ),
    closers=(
        "Thanks!", "It's a birthday.", "Is parking free?", "We may run 5 minutes late.",
        "Can't wait!", "Near the window if possible.", "Last Sunday was lovely.",
    ),
)  # fmt: skip

# ---- log lines ------------------------------------------------------------------------------

SERVICES: Final[Words] = (
    "checkout-api", "search-index", "mail-relay", "auth-gate", "image-cache", "billing",
    "user-store", "cron-runner", "feed-builder", "pdf-export", "geo-lookup", "chat-hub",
    "stock-sync", "video-encoder", "push-sender", "web-proxy", "queue-worker", "tax-engine",
    "backup-agent", "report-job", "session-db", "ad-server", "map-tiles", "log-shipper",
)  # fmt: skip
# The level of the JSON: (as a log line writes it, as a person says it)
LEVELS: Final[tuple[tuple[str, Words, Words], ...]] = (
    ("debug", ("DEBUG", "DBG", "debug", "D"), ("a debug note", "a debug line")),
    ("info", ("INFO", "INF", "info", "I"), ("an info note", "an info line")),
    ("warning", ("WARNING", "WARN", "wrn", "W"), ("a warning", "a mild warning")),
    ("error", ("ERROR", "ERR", "err", "E"), ("an error", "a plain error")),
    ("critical", ("CRITICAL", "CRIT", "FATAL", "F"), ("a critical alert", "a fatal error")),
)
# The event of the JSON: what the service is said to have done
EVENTS: Final[tuple[tuple[str, Words], ...]] = (
    ("timeout", ("timed out", "hit its deadline", "gave up waiting")),
    ("refused", ("was refused a connection", "had its connection refused")),
    ("oom", ("ran out of memory", "hit the memory limit")),
    ("disk_full", ("filled its disk", "ran out of disk space")),
    ("slow", ("responded slowly", "was slow to answer")),
    ("restart", ("restarted", "came back up")),
    ("auth", ("failed to log in", "was denied access")),
    ("crash", ("crashed", "stopped unexpectedly")),
    ("synced", ("finished syncing", "caught up with its replica")),
    ("throttled", ("was throttled", "hit the rate limit")),
    ("db_lost", ("lost its database", "dropped the database link")),
    ("healthy", ("passed its health check", "reported healthy")),
)

LOG: Final = Wording(
    instructions=(
        "Extract the log event as JSON.",
        "Turn this log line into JSON.",
        "Read the log, reply in JSON.",
        "Log to JSON:",
    ),
    templates=(
        "[{level}] {service} {event} after {took}, {retries}",
        "{level} {service}: {event}, {retries}, {took}",
        "{level} | {service} | {event} | {took} | {retries}",
        "{service} logged {a_level}: it {event} after {took}, {retries}.",
        "Saw {a_level} from {service}, which {event} ({took}, {retries}).",
        'level={level} svc={service} msg="{event}" took="{took}" note="{retries}"',
        "{service}[{level}] {event} in {took}; {retries}",
        "Last night {service} {event}. It took {took}, {retries}, and raised {a_level}.",
        "<{level}> {took} elapsed, {service} {event}, {retries}",
        "Got {a_level} in {service}, {retries}: {event} after {took}",
        "On-call note: {service} {event} ({retries}), {took} in total, {a_level}.",
        "{service}: {level}: {event} [{took}] [{retries}]",
        "We had {a_level} when {service} {event}; {retries}, {took} gone.",
        "{level} {retries}, {took}: {service} {event}",
    ),
    openers=("12:01:44", "08:30:09", "Mar 5 17:20", "#4471", "host-3", "FYI:"),
    closers=(
        "(budget 200ms)", "(budget 5s)", "pod=7", "user={name}", "(see {name})", "build 81",
    ),
)  # fmt: skip
