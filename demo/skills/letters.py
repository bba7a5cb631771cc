"""Work on words: repeat, reverse, spell."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import any_name, any_word

REPEAT = Wordings(
    train=(
        "Repeat after me: {x}",
        "Repeat: {x}",
        "Say: {x}",
        "Say {x}",
        "(Please say|Now say|Just say) {x}",
        "Write {x}",
        "Please repeat: {x}",
        "Repeat this: {x}",
        "Copy this text: {x}",
        "Echo: {x}",
        "Write exactly this: {x}",
        "(Can|Could) you repeat this: {x}",
        'Say "{x}"',
        'Repeat "{x}"',
        'Repeat the words "{x}"',
        "Repeat the following words: {x}",
        "Repeat the following: {x}",
        "Say exactly: {x}",
        "Type this: {x}",
        "Say the following: {x}",
        "Say these words: {x}",
        "Would you say this for me: {x}",
        "Copy these words: {x}",
        "Repeat what I say: {x}",
        'Please write "{x}"',
    ),
    held_out=("Please say this: {x}", 'Now repeat "{x}"', "Repeat these words: {x}", "Copy the following: {x}"),
)
SPELL = Wordings(
    train=(
        "Spell {x}.",
        "Spell the word {x}.",
        'Spell "{x}".',
        'Spell the word "{x}"',
        "How do you spell {x}?",
        "How is {x} spelled?",
        "Spell: {x}",
        "Please spell {x}",
        "(Can|Could) you spell {x}?",
        "What is the spelling of {x}?",
        "Write the letters of {x}.",
        "How do I spell {x}?",
        "Spell {x} for me.",
        "Spell the word {x} for us, please.",
        "Would you spell {x} for me?",
        "I need {x} spelled out.",
        "How do people spell {x} in English?",
        "How would you spell the word {x}?",
        "How is the word {x} spelled?",
        "Tell me how {x} is spelled.",
        "Which letters are in the word {x}?",
        "The word {x}, letter by letter.",
        "Give me the letters of {x}, one by one.",
    ),
    held_out=("Please spell the word {x}.", "Could you spell the word {x} for me?", "How do you spell the word {x}?"),
)
REVERSE = Wordings(
    train=(
        "Reverse {x}.",
        "Reverse the word {x}.",
        'Reverse "{x}".',
        'Reverse the word "{x}"',
        "Spell {x} backwards.",
        "Spell the word {x} backwards.",
        "What is {x} backwards?",
        "What is {x} reversed?",
        "Write {x} backwards",
        "(Can|Could) you reverse {x}?",
        "Reverse: {x}",
        "{x} backwards",
        "Turn the word {x} around.",
        "Would you reverse the word {x} for me?",
        "How does {x} read backwards?",
        "Tell me how to write {x} backwards.",
    ),
    held_out=("Please reverse the word {x}.", "Please spell {x} backwards.", "Could you write {x} backwards?"),
)
REVERSE_LIST = Wordings(
    train=(
        "Reverse the order of these words: {x}",
        "Reverse this list: {x}",
        "Write these words in reverse order: {x}",
        "Put these words in reverse order: {x}",
        "Turn this list around: {x}",
        "Reverse the list {x}",
    ),
    held_out=("Please reverse this list: {x}", "Write this list in reverse order: {x}"),
)
COMMON_WORDS = tuple(
    """this is a test the of and to in we you they it can not very good new one two three my your time day all work
    some people system please hello world yes no for with was were are have has will would there here now""".split()
)


def spelled(word: str) -> str:
    return "-".join(word)


def repeat(rng: Random, held_out: bool) -> Turn:
    words = [any_word(rng, made_up=0.3) for _ in range(rng.randint(1, 8))]
    if rng.random() < 0.3:
        words = [rng.choice(COMMON_WORDS) if rng.random() < 0.6 else word for word in words]
    if rng.random() < 0.2:
        words[rng.randrange(len(words))] = rng.choice([str(rng.randint(0, 9999)), any_name(rng)])
    text = " ".join(words)
    text = text.capitalize() + rng.choice([".", "!", ""]) if rng.random() < 0.25 else text
    return Turn(REPEAT.ask(rng, held_out, x=text), text)


def spell(rng: Random, held_out: bool) -> Turn:
    word = any_word(rng, made_up=0 if held_out else 0.25)
    return Turn(SPELL.ask(rng, held_out, x=word), spelled(word))


def reverse(rng: Random, held_out: bool) -> Turn:
    """A word is spelled forwards first: turning letters round is easier than turning a token round."""
    if rng.random() < 0.3:
        words = [any_word(rng) for _ in range(rng.randint(2, 5))]
        ask = REVERSE_LIST.ask(rng, held_out, x=", ".join(words))
        return Turn(ask, ", ".join(reversed(words)))
    word = any_word(rng, made_up=0 if held_out else 0.25)
    return Turn(REVERSE.ask(rng, held_out, x=word), f"{spelled(word)} backwards is {spelled(word[::-1])}")
