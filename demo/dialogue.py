"""The forms that a corpus is made of: wordings, turns and dialogues."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

Message = dict[str, Any]
CHOICE = re.compile(r"\(([^()]*)\)")  # "(please |)tell me" offers two wordings


def wording_variants(template: str) -> Iterator[str]:
    """All wordings of a template with (a|b) choices; slots stay open."""
    parts = CHOICE.split(template)
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    for chosen in product(*choices):
        yield "".join(chosen)


def pick_variant(template: str, rng: Random) -> str:
    """One of the template's wordings, at random."""
    return CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)


# Phrases around a wording, so that the model learns it in other surroundings too.
LEADS = ("OK, ", "Well, ", "Next: ", "Hmm, ", "Right, ", "One more thing: ", "Listen: ", "I wonder, ", "Again: ")
TAILS = (" please", ", please", ", thanks", " then", " if you can", ", my friend", " once more")


def with_company(wording: str, rng: Random) -> str:
    """Sometimes put a few words before a wording, or after one that ends with a punctuation mark."""
    if wording and rng.random() < 0.12:
        first = wording[0].lower() if rng.random() < 0.7 and wording[:2] != "I " else wording[0]
        wording = rng.choice(LEADS) + first + wording[1:]
    if wording.endswith(("?", ".")) and rng.random() < 0.15:
        wording = wording[:-1] + rng.choice(TAILS) + wording[-1]
    return wording


def as_typed_in_haste(wording: str, rng: Random) -> str:
    """Sometimes drop capitals or the last punctuation mark, as people do."""
    if rng.random() < 0.15:
        wording = wording.lower()
    if rng.random() < 0.15 and wording[-1:] in "?.!":
        wording = wording[:-1]
    return wording


@dataclass(frozen=True, slots=True)
class Wordings:
    """Wordings of one question: some to train on, the others only for the evaluation."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def ask(self, rng: Random, held_out: bool, **slots: object) -> str:
        """A question with its slots filled."""
        if held_out:
            return pick_variant(rng.choice(self.held_out), rng).format(**slots)
        return as_typed_in_haste(with_company(pick_variant(rng.choice(self.train), rng), rng), rng).format(**slots)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its answer, and a one-word answer if there is one."""

    ask: str
    answer: str
    short: str | None = None
    accepted: tuple[str, ...] = ()  # other answers that are right too


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A chat that ends with the answer to be learned or judged; earlier answers are learned as well."""

    skill: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    accepted: tuple[str, ...] = ()


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def turn_messages(turn: Turn) -> list[Message]:
    """The question and the answer as chat messages."""
    return [user(turn.ask), assistant(turn.answer)]
