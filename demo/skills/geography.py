"""Capitals of some forty countries, both ways."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import CAPITALS

CAPITAL = Wordings(
    train=(
        "What is the capital of {c}?",
        "What's the capital of {c}?",
        "Capital of {c}?",
        "Capital of {c}",
        "Tell me the capital of {c}.",
        "Which city is the capital of {c}?",
        "(Please name|Name) the capital of {c}.",
        "What is the capital city of {c}?",
        "Do you know the capital of {c}?",
        "(Can|Could) you (tell|give) me the capital of {c}?",
        "{c} capital",
        "What is {c}'s capital?",
        "I need the capital of {c}.",
        "{c}: what is the capital?",
        "Give me the capital of {c}",
    ),
    held_out=(
        "Could you name the capital of {c}?",
        "So what is the capital of {c}?",
        "Which city is {c}'s capital?",
        "Please tell me the capital of {c}.",
        "I want to know the capital city of {c}.",
    ),
)
COUNTRY = Wordings(
    train=(
        "Which country has the capital {c}?",
        "{c} is the capital of which country?",
        "{c} is the capital of what country?",
        "What country is {c} the capital of?",
        "Of which country is {c} the capital?",
        "{c} is the capital of",
        "Which country's capital is {c}?",
    ),
    held_out=("Which country is {c} the capital of?", "Tell me which country has the capital {c}."),
)


def capitals(rng: Random, held_out: bool) -> Turn:
    country, capital = rng.choice(list(CAPITALS.items()))
    answer = f"{capital} is the capital of {country}."
    if rng.random() < 0.2:
        return Turn(COUNTRY.ask(rng, held_out, c=capital), answer, short=country)
    typed = country.lower() if not held_out and rng.random() < 0.1 else country
    return Turn(CAPITAL.ask(rng, held_out, c=typed), answer, short=capital)
