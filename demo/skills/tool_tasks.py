"""Tasks for tools: a user's request, the arguments of the call, a result, and its wording."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from demo.dialogue import Wordings
from demo.skills import tool_schemas as kinds
from demo.skills.tool_schemas import ToolKind
from demo.vocabulary import any_city, any_name, any_word, made_up_word

CONDITIONS = tuple("sunny cloudy rainy windy foggy snowy stormy clear cold hot mild warm".split())
ROOMS = tuple("kitchen,bedroom,garden,hall,cellar,office,bathroom,living room,garage".split(","))


@dataclass(frozen=True, slots=True)
class Task:
    """A request of the user: values in the order of the tool's parameters, a result, and its wording."""

    kind: ToolKind
    ask: str
    values: tuple[Any, ...]
    result: str
    answer: str


WEATHER = Wordings(
    train=(
        "What is the weather in {x}?",
        "What is the weather like in {x}?",
        "What's the weather (like |)in {x}?",
        "How is the weather in {x}?",
        "Weather in {x}?",
        "Is it (warm|cold|raining|sunny) in {x}?",
        "(Please check|Check) the weather in {x}.",
        "Tell me the weather in {x}.",
        "How (warm|cold) is it in {x}?",
        "Do I need (an umbrella|a coat) in {x}?",
        "What's the temperature in {x}?",
        "{x} weather",
        "Use the tool to get the weather in {x}.",
        "What is the weather in {x} (today|right now|now)?",
        "What's the weather like in {x} today?",
    ),
    held_out=(
        "Could you check the weather in {x}?",
        "What's the weather in {x} right now?",
        "Can you tell me how the weather is in {x}?",
        "Please tell me the temperature in {x}.",
    ),
)
IN_UNIT = (" Use {u}.", " In {u}, please.", " I want {u}.", " Answer in {u}.")
TIME = Wordings(
    train=(
        "What time is it in {x}?",
        "What is the time in {x}?",
        "Tell me the time in {x}.",
        "Time in {x}?",
        "How late is it in {x}?",
        "What's the (local |current |)time in {x}?",
        "Do you know the time in {x}?",
        "What time is it now in {x}?",
    ),
    held_out=("Could you tell me the time in {x}?", "Please check what time it is in {x}."),
)
CALCULATE = Wordings(
    train=(
        "What is {x}?",
        "Calculate {x}.",
        "Compute {x}",
        "How much is {x}?",
        "Please work out {x}.",
        "{x} = ?",
        "Use the calculator for {x}.",
        "Can you calculate {x}?",
        "Solve {x}",
    ),
    held_out=("Please calculate {x} for me.", "Could you compute {x}?"),
)
ADD = Wordings(
    train=(
        "Add {x} and {y}.",
        "What is {x} plus {y}?",
        "Sum {x} and {y}",
        "{x} + {y}",
        "What is the sum of {x} and {y}?",
    ),
    held_out=("Please add {x} and {y}.", "How much is {x} plus {y}?"),
)
SEARCH = Wordings(
    train=(
        "Search for {x}.",
        "Search the web for {x}.",
        "Find {x}",
        "Look up {x}.",
        "Please search for {x}",
        "Find something about {x}.",
        "Can you search for {x}?",
        "Look for {x}.",
    ),
    held_out=("Could you look up {x}?", "Please find {x}."),
)
MESSAGE = Wordings(
    train=(
        "Send {x} the message: {y}",
        "Send a message to {x}: {y}",
        "Write to {x}: {y}",
        'Tell {x} "{y}"',
        "Text {x}: {y}",
        'Send "{y}" to {x}.',
    ),
    held_out=("Please send a message to {x}: {y}", 'Please send {x} the message "{y}"'),
)
LIGHT = Wordings(
    train=(
        "Turn {y} the light in the {x}.",
        "Switch {y} the {x} light.",
        "Turn the light in the {x} {y}.",
        "Light {y} in the {x}, please.",
        "(Please turn|Please switch) {y} the light in the {x}",
        "Can you turn {y} the light in the {x}?",
        "{x} light {y}",
    ),
    held_out=("Could you turn {y} the light in the {x}?", "Please turn the light in the {x} {y}."),
)
TIMER = Wordings(
    train=(
        "Set a timer for {x} minutes.",
        "Timer for {x} minutes",
        "Start a timer of {x} minutes.",
        "Wake me in {x} minutes.",
        "Remind me in {x} minutes.",
        "Please set a {x} minute timer",
    ),
    held_out=("Could you set a timer for {x} minutes?", "Please start a {x} minute timer."),
)
LOOKUP = Wordings(
    train=(
        "What is the {y} of {x}?",
        "Get the {y} of {x}.",
        "What's the {y} of {x}?",
        "Tell me the {y} of {x}.",
        "{y} of {x}?",
        "Please look up the {y} of {x}",
        "I need the {y} of {x}.",
        "Find the {y} of {x}.",
        "What {y} does {x} have?",
    ),
    held_out=("Could you get the {y} of {x}?", "Please tell me the {y} of {x}."),
)
NOUNS = tuple("price owner status score height population level rating stock size phone address rank balance".split())
VERBS = ("get", "find", "check", "lookup", "fetch", "read")
DATE = Wordings(
    train=("What is the date?", "What is today's date?", "Which day is today?", "What date is it today?", "Date?"),
    held_out=("Please tell me the date.", "What date do we have today?"),
)


def weather(rng: Random, held_out: bool) -> Task:
    """The result comes as JSON in several shapes, or as a sentence."""
    city, degrees, sky = any_city(rng), rng.randint(-9, 39), rng.choice(CONDITIONS)
    unit = rng.choice([None, None, "celsius", "fahrenheit"])
    ask = WEATHER.ask(rng, held_out, x=city)
    if unit:
        ask += rng.choice(IN_UNIT).format(u=unit.capitalize() if rng.random() < 0.5 else unit)
    first, second = (
        rng.choice(["temperature", "temp", "degrees"]),
        rng.choice(["condition", "conditions", "weather", "sky"]),
    )
    report: dict[str, Any] = {first: degrees, second: sky}
    if rng.random() < 0.3:
        report = {rng.choice(["location", "city"]): city, **report}
    if rng.random() < 0.3:
        report["unit"] = unit or "celsius"
    plain = rng.choice([f"{degrees} degrees and {sky}", f"{degrees} degrees, {sky}", f"{sky}, {degrees} degrees"])
    result = json.dumps(report) if rng.random() < 0.7 else plain
    return Task(kinds.WEATHER, ask, (city, unit), result, f"In {city} it is {degrees} degrees and {sky}.")


def clock(rng: Random, held_out: bool) -> Task:
    city, time = any_city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    result = rng.choice([time, json.dumps({"time": time}), json.dumps({"city": city, "time": time})])
    return Task(kinds.TIME, TIME.ask(rng, held_out, x=city), (city,), result, f"It is {time} in {city}.")


def calculator(rng: Random, held_out: bool) -> Task:
    a, b, sign = rng.randint(1, 10 ** rng.randint(1, 4)), rng.randint(1, 10 ** rng.randint(1, 3)), rng.choice("+-*")
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    result = rng.choice([str(value), json.dumps({"result": value})])
    expression = f"{a} {sign} {b}"
    ask = CALCULATE.ask(rng, held_out, x=expression)
    return Task(kinds.CALCULATOR, ask, (expression,), result, f"The result is {value}.")


def adder(rng: Random, held_out: bool) -> Task:
    a, b = rng.randint(0, 10 ** rng.randint(1, 3)), rng.randint(0, 10 ** rng.randint(1, 3))
    result = rng.choice([str(a + b), json.dumps({"result": a + b}), json.dumps({"sum": a + b})])
    return Task(kinds.ADDER, ADD.ask(rng, held_out, x=a, y=b), (a, b), result, f"The result is {a + b}.")


def search(rng: Random, held_out: bool) -> Task:
    text = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    found = " ".join(any_word(rng) for _ in range(rng.randint(2, 5)))
    result = rng.choice([found, json.dumps({"result": found})])
    return Task(kinds.SEARCH, SEARCH.ask(rng, held_out, x=text), (text,), result, f"I found this: {found}")


def message(rng: Random, held_out: bool) -> Task:
    name, text = any_name(rng), " ".join(any_word(rng) for _ in range(rng.randint(1, 5)))
    result = rng.choice(["sent", "ok", json.dumps({"status": "sent"}), json.dumps({"ok": True})])
    ask = MESSAGE.ask(rng, held_out, x=name, y=text)
    return Task(kinds.MESSAGE, ask, (name, text), result, f"I sent the message to {name}.")


def light(rng: Random, held_out: bool) -> Task:
    room, state = rng.choice(ROOMS), rng.choice(["on", "off"])
    result = rng.choice(["ok", "done", json.dumps({"ok": True}), json.dumps({"state": state})])
    ask = LIGHT.ask(rng, held_out, x=room, y=state)
    return Task(kinds.LIGHT, ask, (room, state == "on"), result, f"The light in the {room} is {state}.")


def timer(rng: Random, held_out: bool) -> Task:
    minutes = rng.randint(1, 90)
    result = rng.choice(["ok", "started", json.dumps({"ok": True})])
    return Task(
        kinds.TIMER, TIMER.ask(rng, held_out, x=minutes), (minutes,), result, f"The timer is set for {minutes} minutes."
    )


def date(rng: Random, held_out: bool) -> Task:
    today = f"{rng.randint(2024, 2031)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    result = rng.choice([today, json.dumps({"date": today})])
    return Task(kinds.DATE, DATE.ask(rng, held_out), (), result, f"Today is {today}.")


def lookup(rng: Random, held_out: bool) -> Task:
    """A question for a tool with a name that is new each time."""
    noun = rng.choice(NOUNS) if rng.random() < 0.6 else made_up_word(rng)
    thing = rng.choice([any_word, any_name, any_city])(rng)
    value = str(rng.randint(1, 9999)) if rng.random() < 0.7 else any_word(rng)
    result = rng.choice([value, json.dumps({noun: value}), json.dumps({"result": value})])
    kind = kinds.lookup_kind(rng.choice(VERBS), noun)
    ask = LOOKUP.ask(rng, held_out, x=thing, y=noun)
    return Task(kind, ask, (thing,), result, f"The {noun} of {thing} is {value}.")


TASKS = (
    lookup,
    lookup,
    weather,
    weather,
    weather,
    clock,
    calculator,
    calculator,
    adder,
    search,
    message,
    light,
    timer,
    date,
)
