"""System prompts: those to obey, and those that change nothing."""

import json
from collections.abc import Callable
from random import Random

from demo.dialogue import Dialogue, Message, Turn, Wordings, assistant, system, turn_messages, user
from demo.vocabulary import any_name, any_word

MakeTurn = Callable[[Random, bool], Turn]

NEUTRAL = Wordings(
    train=(
        "You are a helpful assistant.",
        "You are a helpful assistant.",
        "You are a helpful assistant.",
        "You are a (friendly|kind|polite|useful) (assistant|helper).",
        "You are an assistant.",
        "You are a helpful AI assistant.",
        "You are an AI assistant for (our shop|a school|a library|a hotel).",
        "You are an expert (programmer|cook|teacher|writer).",
        "Be (helpful|kind|polite|brief|nice).",
        "Be helpful and (honest|brief|polite).",
        "Answer the (question|user).",
        "Answer the user's questions as well as you can.",
        "Help the user.",
        "You help people with their (work|homework|questions).",
        "You are a coding assistant.",
        "You are a small demo model.",
        "You are a test assistant. Keep it short.",
        "Today is a (good|sunny|rainy) day.",
        "",
        "x",
    ),
    held_out=(
        "You are a very helpful assistant.",
        "Please help the user.",
        "You are a helpful and friendly assistant.",
    ),
)
CAPITALS = Wordings(
    train=(
        "Answer in capitals.",
        "Answer in capital letters.",
        "Always answer in capital letters.",
        "Write everything in capitals.",
        "Use only capital letters.",
        "Answer in upper case.",
        "Answer in all caps.",
        "Write all your answers in upper case.",
        "You always write in capital letters.",
        "Reply in capitals only.",
        "You shout: use capital letters.",
        "Please write everything in upper case.",
        "All answers must be in capital letters.",
        "Only reply in capital letters.",
    ),
    held_out=("Please answer in capital letters.", "Write in capital letters only.", "Always reply in capitals."),
)
ONE_WORD = Wordings(
    train=(
        "Answer with one word.",
        "Answer with one word only.",
        "Answer in one word.",
        "Always answer with a single word.",
        "Use only one word.",
        "Reply with one word.",
        "Give one-word answers.",
        "Your answers have exactly one word.",
        "Answer with just one word.",
        "Only one word per answer.",
        "Please use just one word.",
        "Every reply is a single word.",
        "Answer each question with a single word, no more.",
    ),
    held_out=("Please answer with one word.", "Always reply with one word only.", "Use a single word to answer."),
)
END_WITH = Wordings(
    train=(
        "End every answer with the word {w}.",
        "End each answer with {w}.",
        "Finish every answer with the word {w}.",
        "Always end with the word {w}.",
        "The last word of every answer is {w}.",
        "End all your answers with {w}.",
        'End every answer with "{w}".',
        "Say {w} at the end of every answer.",
        "Close each answer with the word {w}.",
        "Please let every answer end with {w}.",
        "Always put {w} at the end of your answers.",
        "Whatever you say, finish it with the word {w}.",
    ),
    held_out=("Please end every answer with {w}.", "Always finish your answers with the word {w}."),
)
START_WITH = Wordings(
    train=(
        "Start every answer with the word {w}.",
        "Start each answer with {w}.",
        "Begin every answer with the word {w}.",
        "Always start with the word {w}.",
        "The first word of every answer is {w}.",
        'Begin every answer with "{w}".',
        "Say {w} at the start of every answer.",
        "Please let every answer begin with {w}.",
        "Always put {w} at the start of your answers.",
        "Whatever you say, begin it with the word {w}.",
    ),
    held_out=("Please start every answer with {w}.", "Always begin your answers with the word {w}."),
)
JSON_ONLY = Wordings(
    train=(
        "Answer in JSON.",
        "Answer only in JSON.",
        "Always answer with a JSON object.",
        "Reply with JSON only.",
        "Write every answer as a JSON object.",
        "Your answers are JSON objects.",
        "Respond in JSON.",
        'Answer as JSON: {{"answer": ...}}',
        "You always write JSON.",
        "Please reply with a JSON object.",
        "Give all your answers in JSON.",
        "Each answer must be a JSON object.",
    ),
    held_out=("Please answer in JSON only.", "Always reply in JSON.", "Give every answer as a JSON object."),
)
PERSONA = Wordings(
    train=(
        "Your name is {n}.",
        "You are {n}.",
        "You are {n}, a (helpful|friendly) assistant.",
        "You are an assistant named {n}.",
        "You are a helpful assistant called {n}.",
        "Pretend that your name is {n}.",
        "Pretend to be {n}.",
        "You are called {n}.",
        "Act as {n}.",
        "You are a (robot|pirate|teacher|kind helper) named {n}.",
        "Please act as {n}.",
        "Let us pretend that you are called {n}.",
    ),
    held_out=("Please pretend that your name is {n}.", "You are a friendly assistant named {n}."),
)
ASK_NAME = Wordings(
    train=(
        "Who are you?",
        "What is your name?",
        "What's your name?",
        "Tell me your name.",
        "Hello, who are you?",
        "Hi! What is your name?",
        "How are you called?",
        "Introduce yourself.",
        "And who are you?",
        "Could you tell me your name?",
    ),
    held_out=("So who are you?", "Please tell me your name.", "Hello, what's your name?"),
)


def answered(turn: Turn, rule: Callable[[str], str]) -> Turn:
    """The turn under a rule: the same answer in the form that the rule asks for."""
    return Turn(turn.ask, rule(turn.answer), accepted=tuple(rule(answer) for answer in turn.accepted))


def capitals_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    return CAPITALS.ask(rng, held_out), answered(make_turn(rng, held_out), str.upper)


def one_word_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    """Only questions that have a short answer are asked."""
    turn = make_turn(rng, held_out)
    while turn.short is None:
        turn = make_turn(rng, held_out)
    return ONE_WORD.ask(rng, held_out), Turn(turn.ask, turn.short)


def end_with_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    turn, word = make_turn(rng, held_out), any_word(rng)
    return END_WITH.ask(rng, held_out, w=word), answered(turn, lambda answer: f"{answer} {word}")


def start_with_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    turn, word = make_turn(rng, held_out), any_word(rng)
    return START_WITH.ask(rng, held_out, w=word), answered(turn, lambda answer: f"{word} {answer}")


def json_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    return JSON_ONLY.ask(rng, held_out), answered(
        make_turn(rng, held_out), lambda answer: json.dumps({"answer": answer})
    )


def persona_rule(rng: Random, held_out: bool, make_turn: MakeTurn) -> tuple[str, Turn]:
    name = any_name(rng)
    return PERSONA.ask(rng, held_out, n=name), Turn(ASK_NAME.ask(rng, held_out), f"I am {name}.")


RULES = (capitals_rule, one_word_rule, end_with_rule, start_with_rule, json_rule, persona_rule)


def obey_system(rng: Random, held_out: bool, make_turn: MakeTurn) -> Dialogue:
    """A system prompt with one rule, kept for every answer of the dialogue."""
    rule = rng.choice(RULES if held_out else (*RULES, one_word_rule, end_with_rule))
    prompt, turn = rule(rng, held_out, make_turn)
    messages: list[Message] = []
    for _ in range(rng.choice([0, 0, 1, 2] if held_out else [0, 1, 2, 3, 4])):
        messages += turn_messages(follow(rule, prompt, turn, rng, make_turn))
    asked = [system(prompt), *messages, user(turn.ask), assistant(turn.answer)]
    return Dialogue("system prompt", asked, accepted=turn.accepted)


def follow(rule: Callable[..., tuple[str, Turn]], prompt: str, final: Turn, rng: Random, make_turn: MakeTurn) -> Turn:
    """An earlier turn under the same rule as the final one."""
    if rule is persona_rule:
        return make_turn(rng, False)
    _, turn = rule(rng, False, make_turn)
    if rule is end_with_rule:
        return Turn(turn.ask, turn.answer.rsplit(" ", 1)[0] + " " + final.answer.rsplit(" ", 1)[1])
    if rule is start_with_rule:
        return Turn(turn.ask, final.answer.split(" ", 1)[0] + " " + turn.answer.split(" ", 1)[1])
    return turn
