"""Recall facts from earlier in the chat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from demo.dialogue import Dialogue, Message, Turn, Wordings, turn_messages
from demo.vocabulary import ANIMALS, COLOURS, FOODS, any_city, any_name

MakeTurn = Callable[[Random, bool], Turn]


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something a user may tell about herself, and how she asks for it later."""

    label: str
    tell: Wordings
    ask: Wordings
    reply: str
    draw: Callable[[Random], str]


FAVOURITE_TELL = Wordings(
    train=(
        "My favo(u|)rite {label} is {v}.",
        "My favo(u|)rite {label} is {v}",
        "Remember: my favo(u|)rite {label} is {v}.",
        "{v} is my favo(u|)rite {label}.",
        "By the way, my favo(u|)rite {label} is {v}.",
        "You should know that my favo(u|)rite {label} is {v}.",
        "I like {v}, it is my favo(u|)rite {label}.",
    ),
    held_out=("Please remember that my favourite {label} is {v}.", "Just so you know, my favorite {label} is {v}."),
)
FAVOURITE_ASK = Wordings(
    train=(
        "What is my favo(u|)rite {label}?",
        "What's my favo(u|)rite {label}?",
        "Which {label} do I like (best|most)?",
        "Do you remember my favo(u|)rite {label}?",
        "Tell me my favo(u|)rite {label}.",
        "Which is my favo(u|)rite {label}?",
        "My favo(u|)rite {label}?",
        "Do you know my favo(u|)rite {label}?",
        "Could you tell me my favo(u|)rite {label}?",
        "And what is my favo(u|)rite {label}?",
    ),
    held_out=("So what is my favourite {label}?", "Can you tell me my favorite {label}?"),
)
NAME = Attribute(
    "name",
    Wordings(
        train=(
            "My name is {v}.",
            "My name is {v}",
            "Hi, my name is {v}.",
            "Hello, my name is {v}!",
            "I am {v}.",
            "Hello, I am {v}.",
            "I'm {v}.",
            "Hi, I'm {v}!",
            "Call me {v}.",
            "You can call me {v}.",
            "Please call me {v}.",
            "Remember that my name is {v}.",
        ),
        held_out=("Hey, my name is {v}.", "By the way, my name is {v}.", "Hello there, I'm {v}."),
    ),
    Wordings(
        train=(
            "What is my name?",
            "What's my name?",
            "Do you (know|remember) my name?",
            "Who am I?",
            "Tell me my name.",
            "What did I say my name was?",
            "Do you remember who I am?",
            "Say my name.",
            "And what is my name?",
            "What am I called?",
        ),
        held_out=("So what is my name?", "Can you tell me my name?", "Do you still know my name?"),
    ),
    "Nice to meet you, {v}!",
    lambda rng: any_name(rng),
)
CITY = Attribute(
    "city",
    Wordings(
        train=("I live in {v}.", "My home is in {v}.", "I am from {v}.", "My city is {v}.", "My home town is {v}."),
        held_out=("By the way, I live in {v}.", "You should know that I live in {v}."),
    ),
    Wordings(
        train=(
            "Where do I live?",
            "What is my city?",
            "Which city do I live in?",
            "Do you remember where I live?",
            "Where am I from?",
            "Tell me where I live.",
            "What is my home town?",
        ),
        held_out=("So where do I live?", "Do you know where I live?"),
    ),
    "I will remember that your city is {v}.",
    lambda rng: any_city(rng),
)
AGE = Attribute(
    "age",
    Wordings(
        train=("I am {v} years old.", "My age is {v}.", "I'm {v} years old.", "I just turned {v}.", "I am {v}."),
        held_out=("By the way, I am {v} years old.", "You should know that my age is {v}."),
    ),
    Wordings(
        train=("How old am I?", "What is my age?", "Do you remember how old I am?", "Tell me my age.", "My age?"),
        held_out=("So how old am I?", "Do you know my age?"),
    ),
    "I will remember that your age is {v}.",
    lambda rng: str(rng.randint(5, 99)),
)


def favourite(label: str, values: Sequence[str]) -> Attribute:
    """A favourite thing of one kind."""
    reply = f"I will remember that your favourite {label} is {{v}}."
    return Attribute(f"favourite {label}", FAVOURITE_TELL, FAVOURITE_ASK, reply, lambda rng: rng.choice(values))


NUMBERS = tuple(str(number) for number in range(100))
ATTRIBUTES = (
    NAME,
    NAME,
    CITY,
    AGE,
    favourite("colour", COLOURS),
    favourite("color", COLOURS),
    favourite("animal", ANIMALS),
    favourite("food", FOODS),
    favourite("number", NUMBERS),
)


def slot_label(attribute: Attribute) -> str:
    return attribute.label.removeprefix("favourite ")


def told(attribute: Attribute, value: str, rng: Random, held_out: bool) -> Turn:
    ask = attribute.tell.ask(rng, held_out, v=value, label=slot_label(attribute))
    return Turn(ask, attribute.reply.format(v=value))


def recalled(attribute: Attribute, value: str | None, rng: Random, held_out: bool) -> Turn:
    """A question for a fact; the answer is true also if the fact was never given."""
    ask = attribute.ask.ask(rng, held_out, label=slot_label(attribute))
    if value is None:
        return Turn(ask, f"You have not told me your {attribute.label}.")
    return Turn(ask, f"Your {attribute.label} is {value}.", short=value)


def memory(rng: Random, held_out: bool, filler: MakeTurn, max_fillers: int = 3) -> Dialogue:
    """Some facts, then other topics, then questions for one fact after another."""
    facts = {kind.label: (kind, kind.draw(rng)) for kind in rng.sample(ATTRIBUTES, rng.choice([1, 1, 2, 3]))}
    turns = [told(kind, value, rng, held_out) for kind, value in facts.values()]
    for _ in range(rng.randint(0, max_fillers)):
        turns.insert(rng.randint(1, len(turns)), filler(rng, False))
    asked = rng.sample(list(facts.values()), rng.randint(1, len(facts)))
    questions = [recalled(kind, value, rng, held_out) for kind, value in asked]
    stranger = rng.choice(ATTRIBUTES)
    if stranger.label not in facts and rng.random() < 0.25:
        questions.insert(rng.randint(0, len(questions)), recalled(stranger, None, rng, held_out))
    messages: list[Message] = [message for turn in turns + questions for message in turn_messages(turn)]
    return Dialogue("memory", messages)
