"""One tool call when an offered tool fits, the answer from its result, and no call otherwise."""

from collections.abc import Callable
from random import Random
from typing import Any

from demo.dialogue import Dialogue, Message, Turn, assistant, turn_messages, user
from demo.skills import tool_schemas as kinds
from demo.skills.tool_schemas import Schema, ToolKind, draw_tool
from demo.skills.tool_tasks import TASKS, Task, adder, calculator, lookup

MakeTurn = Callable[[Random, bool], Turn]


OTHERS = (
    *(kinds.WEATHER, kinds.TIME, kinds.CALCULATOR, kinds.SEARCH),
    *(kinds.MESSAGE, kinds.LIGHT, kinds.TIMER, kinds.DATE),
)


def call_message(name: str, arguments: dict[str, Any]) -> Message:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


def fitting_call(tool: Schema, names: list[str], task: Task) -> Message:
    """The right call of this tool for the task."""
    arguments = {name: value for name, value in zip(names, task.values, strict=False) if value is not None}
    for required in tool["function"]["parameters"].get("required", []):
        arguments.setdefault(required, "celsius")  # of all the arguments here only the unit may go unsaid
    return call_message(tool["function"]["name"], arguments)


def result_messages(task: Task) -> list[Message]:
    return [{"role": "tool", "tool_call_id": "call_0", "content": task.result}, assistant(task.answer)]


def draw_others(rng: Random, fitting: ToolKind | None, count: int) -> list[Schema]:
    """Tools of other kinds; the two that calculate are never offered together."""
    pool = [
        kind for kind in OTHERS if kind is not fitting and not (fitting is kinds.ADDER and kind is kinds.CALCULATOR)
    ]
    return [draw_tool(rng, kind)[0] for kind in rng.sample(pool, count)]


def offer(rng: Random, tool: Schema, kind: ToolKind) -> list[Schema]:
    """The fitting tool among up to two others."""
    tools = [tool, *draw_others(rng, kind, rng.choice([0, 0, 1, 2]))]
    rng.shuffle(tools)
    return tools


def tool_call(rng: Random, held_out: bool, filler: MakeTurn) -> Dialogue:
    """Ends with the call; sometimes something else was talked about before, or the tool was used before."""
    make_task = rng.choice(TASKS)
    task = make_task(rng, held_out)
    tool, names = draw_tool(rng, task.kind)
    before: list[Message] = turn_messages(filler(rng, False)) if rng.random() < 0.15 else []
    if make_task is not lookup and rng.random() < 0.2:
        earlier = make_task(rng, False)
        before = [user(earlier.ask), fitting_call(tool, names, earlier), *result_messages(earlier)]
    messages = [*before, user(task.ask), fitting_call(tool, names, task)]
    return Dialogue("tool call", messages, offer(rng, tool, task.kind))


def tool_result(rng: Random, held_out: bool, filler: MakeTurn) -> Dialogue:
    """Ends with the answer that tells the tool's result; in training another turn may follow."""
    task = rng.choice(TASKS)(rng, held_out)
    tool, names = draw_tool(rng, task.kind)
    after = turn_messages(filler(rng, False)) if not held_out and rng.random() < 0.2 else []
    messages = [user(task.ask), fitting_call(tool, names, task), *result_messages(task), *after]
    return Dialogue("tool result", messages, offer(rng, tool, task.kind))


def tool_session(rng: Random, filler: MakeTurn) -> Dialogue:
    """For training alone: many questions with the same tools, so that what the schemas cost to read is paid once."""
    makers = rng.sample(list(dict.fromkeys(TASKS)), rng.randint(1, 3))
    if calculator in makers and adder in makers:
        makers.remove(adder)
    tools: list[Schema] = []
    turns: list[list[Message]] = [turn_messages(filler(rng, False)) for _ in range(rng.choice([0, 1, 1, 2]))]
    for make_task in makers:
        task = make_task(rng, False)
        tool, names = draw_tool(rng, task.kind)
        tools.append(tool)
        more = 0 if make_task is lookup else rng.choice([0, 1, 1, 2])  # the next lookup would be of something else
        for each in (task, *(make_task(rng, False) for _ in range(more))):
            turns.append([user(each.ask), fitting_call(tool, names, each), *result_messages(each)])
    rng.shuffle(turns)
    return Dialogue("tool session", [message for turn in turns for message in turn], tools)


def no_tool_needed(rng: Random, held_out: bool, filler: MakeTurn) -> Dialogue:
    """Tools are offered, but the question wants none; calculators stay away because sums are asked."""
    tools = draw_others(rng, kinds.ADDER, rng.choice([1, 1, 2, 3]))
    turn = filler(rng, held_out)
    before = turn_messages(filler(rng, False)) if rng.random() < 0.3 else []
    return Dialogue("no tool needed", [*before, *turn_messages(turn)], tools, accepted=turn.accepted)
