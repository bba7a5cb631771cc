"""Tools as a client would offer them: many names, many ways to write a schema."""

from dataclasses import dataclass
from random import Random
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool: the names it may have, and its schema."""

    names: tuple[str, ...]
    kind: str
    about: tuple[str, ...]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolKind:
    """One thing that a tool can do, under any of its names."""

    names: tuple[str, ...]
    about: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    num_required: int


PLACE = Parameter(
    ("location", "location", "city", "place", "town", "city_name"),
    "string",
    (
        "The city",
        "City name",
        "The city and state, e.g. Boston, MA",
        "The name of the place",
        "City and country e.g. Lyon, France",
        "The location to look up",
    ),
)
UNIT = Parameter(
    ("unit", "unit", "units", "scale"), "string", ("The unit", "Temperature unit"), ("celsius", "fahrenheit")
)
WEATHER = ToolKind(
    (
        *("get_weather", "get_current_weather", "weather", "fetch_weather", "check_weather", "weather_lookup"),
        *("getWeather", "current_weather", "lookup_weather", "weather_now", "get_weather_report"),
    ),
    (
        "Get the weather",
        "Get the current weather in a given location",
        "Current weather for a city.",
        "Look up the weather of a place",
        "Get weather for a city",
        "Returns the weather at a place.",
    ),
    (PLACE, UNIT),
    1,
)
TIME = ToolKind(
    ("get_time", "get_current_time", "time", "clock", "current_time", "time_in", "local_time", "fetch_time"),
    ("Get the current time", "The time in a city", "Get the local time of a place.", "Tells the time"),
    (PLACE,),
    1,
)
CALCULATOR = ToolKind(
    ("calculator", "calculate", "calc", "evaluate", "math", "compute", "solve", "eval_expression"),
    ("Evaluate an expression", "A calculator", "Calculate a result.", "Do arithmetic", "Compute a math expression"),
    (Parameter(("expression", "expr", "formula", "input"), "string", ("The expression", "What to compute")),),
    1,
)
ADDER = ToolKind(
    ("add", "add_numbers", "sum", "plus", "sum_two", "addition"),
    ("Add two numbers", "Returns the sum of two numbers.", "Adds numbers"),
    (
        Parameter(("a", "x", "first", "left"), "integer", ("The first number", "A number")),
        Parameter(("b", "y", "second", "right"), "integer", ("The second number", "A number")),
    ),
    2,
)
SEARCH = ToolKind(
    ("search", "web_search", "find", "lookup", "search_web", "search_docs", "query_index"),
    ("Search the web", "Find documents", "Look something up.", "Search for a text"),
    (Parameter(("query", "q", "text", "term", "keywords"), "string", ("The query", "What to search for")),),
    1,
)
MESSAGE = ToolKind(
    ("send_message", "send_mail", "send_email", "message", "notify", "send_text"),
    ("Send a message", "Send a message to somebody.", "Sends a text to a person"),
    (
        Parameter(("to", "recipient", "person", "name"), "string", ("Who gets it", "The recipient")),
        Parameter(("text", "message", "body", "content"), "string", ("The text", "What to send")),
    ),
    2,
)
LIGHT = ToolKind(
    ("set_light", "light", "switch_light", "turn_light", "control_light"),
    ("Turn a light on or off", "Switch the light in a room.", "Controls the lights"),
    (
        Parameter(("room", "where", "location", "place"), "string", ("The room", "Which room")),
        Parameter(("on", "state_on", "enabled"), "boolean", ("True for on", "On or off")),
    ),
    2,
)
TIMER = ToolKind(
    ("set_timer", "timer", "start_timer", "new_timer", "create_timer"),
    ("Set a timer", "Start a timer for some minutes.", "Starts a countdown"),
    (Parameter(("minutes", "duration", "time", "mins"), "integer", ("The minutes", "How long")),),
    1,
)
DATE = ToolKind(
    ("get_date", "today", "current_date", "get_today", "date"), ("Get the date of today", "Today's date."), (), 0
)
LOOKUP_KEY = Parameter(
    ("name", "item", "key", "id", "symbol", "country", "user", "title", "subject", "product"),
    "string",
    ("The name", "What to look up", "Which one", "Identifier of the thing"),
)


def lookup_kind(verb: str, noun: str) -> ToolKind:
    """A tool with a made-up purpose: get_price, find_owner, check_radok."""
    about = (f"Get the {noun} of something", f"Look up the {noun}.", f"Returns the {noun}", "Look something up")
    return ToolKind((f"{verb}_{noun}",), about, (LOOKUP_KEY,), 1)


def parameter_schema(rng: Random, parameter: Parameter) -> Schema:
    schema: Schema = {"type": parameter.kind}
    if rng.random() < 0.6:
        schema["description"] = rng.choice(parameter.about)
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    return schema


def draw_tool(rng: Random, kind: ToolKind, name: str | None = None) -> tuple[Schema, list[str]]:
    """An OpenAI tool of this kind, and the names that its arguments got; optional ones may be absent."""
    num_parameters = rng.randint(kind.num_required, len(kind.parameters))
    drawn = kind.parameters[:num_parameters]
    names = [rng.choice(parameter.names) for parameter in drawn]
    properties = {name: parameter_schema(rng, parameter) for name, parameter in zip(names, drawn, strict=True)}
    parameters: Schema = {"type": "object", "properties": properties}
    if names and rng.random() < 0.8:
        parameters["required"] = names if rng.random() < 0.15 else names[: kind.num_required]
    if rng.random() < 0.2:
        parameters["additionalProperties"] = False
    function: Schema = {"name": name or rng.choice(kind.names)}
    if rng.random() < 0.85:
        function["description"] = rng.choice(kind.about)
    function["parameters"] = parameters
    if rng.random() < 0.1:
        function["strict"] = True
    return {"type": "function", "function": function}, names
