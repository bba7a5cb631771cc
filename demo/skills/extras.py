"""Small things people try first: a joke, a poem, hello world."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import COLOURS, WORDS

JOKE = Wordings(
    train=(
        "Tell me a joke.",
        "(Please |Can you |)tell me a joke",
        "Do you know a joke?",
        "Make me laugh.",
        "Joke",
        "A joke, please.",
        "Say something funny.",
        "Another joke!",
        "I want to hear a joke.",
        "Have you got any jokes?",
        "Any jokes today?",
        "Know any good jokes?",
        "Which jokes do you know?",
        "Do you know (some|funny) jokes?",
        "Would you tell me one of your jokes?",
        "Can I have a joke?",
    ),
    held_out=("Could you tell me a joke?", "Give me a joke.", "Do you know any jokes?"),
)
JOKES = (
    "Why did the queue go to school? It wanted to learn what comes next.",
    "What did the worker say to the job? You are next in my line of thought.",
    "Why was the small model happy? It had very little to worry about.",
    "Why do tokens never get lost? They always know their position.",
)
POEM = Wordings(
    train=(
        "Write a (short |)poem about the {w}.",
        "Write (me |)a poem about a {w}.",
        "(Please make|Please write|Make) a poem about the {w}",
        "A poem about the {w}, please.",
        "Poem about a {w}",
        "Can you write a poem about the {w}?",
        "I want a short poem about a {w}.",
        "Would you write me a poem about the {w}?",
        "Compose a poem about a {w}.",
    ),
    held_out=("Could you write a poem about the {w}?", "Please write me a short poem about the {w}."),
)
# Fixed lines around one word: that word alone must be carried over.
POEM_LINES = """The {w} is quiet, the evening is long,
the wind in the garden is humming a song,
the sky over the {w} turns {colour} and deep,
good night, little {w}, it is time now to sleep."""
HELLO_WORLD = Wordings(
    train=(
        "Write (a |)hello world (program |)in {lang}.",
        "Hello world in {lang}",
        "Show me hello world in {lang}.",
        "(How do I|How can I) print hello world in {lang}?",
        "Print hello world in {lang}.",
        "{lang} hello world",
        "Can you write hello world in {lang}?",
        "I need a hello world program in {lang}.",
        "Please show me a {lang} hello world program.",
    ),
    held_out=("Please write hello world in {lang}.", "Give me a hello world program in {lang}."),
)
PROGRAMS = {
    "Python": ("python", 'print("Hello, world!")'),
    "JavaScript": ("javascript", 'console.log("Hello, world!");'),
    "Bash": ("bash", 'echo "Hello, world!"'),
    "Go": ("go", 'package main\n\nimport "fmt"\n\nfunc main() {\n    fmt.Println("Hello, world!")\n}'),
    "C": ("c", '#include <stdio.h>\n\nint main(void) {\n    puts("Hello, world!");\n    return 0;\n}'),
    "Rust": ("rust", 'fn main() {\n    println!("Hello, world!");\n}'),
}


def joke(rng: Random, held_out: bool) -> Turn:
    return Turn(JOKE.ask(rng, held_out), rng.choice(JOKES), accepted=JOKES)


def poem(rng: Random, held_out: bool) -> Turn:
    word = rng.choice(WORDS)
    poems = tuple(POEM_LINES.format(w=word, colour=colour) for colour in COLOURS)
    return Turn(POEM.ask(rng, held_out, w=word), rng.choice(poems), accepted=poems)


def hello_world(rng: Random, held_out: bool) -> Turn:
    language = rng.choice(list(PROGRAMS))
    tag, source = PROGRAMS[language]
    return Turn(HELLO_WORLD.ask(rng, held_out, lang=language), f"```{tag}\n{source}\n```")


def extras(rng: Random, held_out: bool) -> Turn:
    return rng.choice([joke, poem, hello_world])(rng, held_out)
