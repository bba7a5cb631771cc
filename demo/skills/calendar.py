"""Days and months: which comes before, which after, how long a month is."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import MONTHS, WEEKDAYS

NEXT = Wordings(
    train=(
        "What {unit} comes after {x}?",
        "Which {unit} comes after {x}?",
        "What comes after {x}?",
        "What is the {unit} after {x}?",
        "What {unit} follows {x}?",
        "Which one follows {x}?",
        "Tell me what comes after {x}.",
        "After {x} comes",
        "(Can|Could) you tell me the {unit} after {x}?",
        "Next after {x}?",
        "Name the {unit} after {x}.",
        "I want to know what comes after {x}.",
        "Please name what follows {x}.",
        "And what is after {x}?",
    ),
    held_out=("Please tell me what follows {x}.", "Do you know what comes after {x}?", "So what comes after {x}?"),
)
BEFORE = Wordings(
    train=(
        "What {unit} comes before {x}?",
        "Which {unit} comes before {x}?",
        "What comes before {x}?",
        "What is the {unit} before {x}?",
        "Which {unit} is before {x}?",
        "Tell me what comes before {x}.",
        "Before {x} comes",
        "(Can|Could) you tell me the {unit} before {x}?",
        "Just before {x}?",
        "Name the {unit} before {x}.",
        "I want to know what comes before {x}.",
        "Please name what is before {x}.",
        "And what is before {x}?",
    ),
    held_out=("Please tell me what is before {x}.", "Do you know what comes before {x}?", "So what comes before {x}?"),
)
LENGTH = Wordings(
    train=(
        "How many days does {x} have?",
        "How many days are in {x}?",
        "How many days are there in {x}?",
        "How long is {x}?",
        "Number of days in {x}?",
        "Days in {x}",
        "Tell me how many days {x} has.",
    ),
    held_out=("Do you know how many days {x} has?", "Please tell me how many days are in {x}."),
)


def neighbours(rng: Random, held_out: bool) -> Turn:
    names = rng.choice([WEEKDAYS, MONTHS])
    here = rng.randrange(len(names))
    unit = "day" if names is WEEKDAYS else "month"
    step, word, wordings = rng.choice([(1, "after", NEXT), (-1, "before", BEFORE)])
    there = names[(here + step) % len(names)]
    ask = wordings.ask(rng, held_out, x=names[here], unit=unit)
    return Turn(ask, f"{there} comes {word} {names[here]}.", short=there)


def month_length(rng: Random, held_out: bool) -> Turn:
    month = rng.choice(MONTHS)
    days = 28 if month == "February" else 30 if month in ("April", "June", "September", "November") else 31
    leap = ", and 29 in a leap year" if month == "February" else ""
    return Turn(LENGTH.ask(rng, held_out, x=month), f"{month} has {days} days{leap}.", short=str(days))


def days_and_months(rng: Random, held_out: bool) -> Turn:
    return month_length(rng, held_out) if rng.random() < 0.2 else neighbours(rng, held_out)
