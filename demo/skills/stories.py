"""Stories from a grammar: long enough to watch a stream, with things that return in their place."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import ANIMALS, any_name

STORY = Wordings(
    train=(
        "Tell me a (long |)story.",
        "Tell me a story, please.",
        "(Please |Can you |Could you )tell me a (long |)story.",
        "Write a (long |)story.",
        "I want to hear a story.",
        "Story",
        "A story, please!",
        "Make up a story.",
        "Write me a story",
        "Once upon a time",
    ),
    held_out=("Please write a story for me.", "I would like a long story.", "Could you make up a story?"),
)
STORY_ABOUT = Wordings(
    train=(
        "Tell me a (long |)story about (a|the) {h}.",
        "(Please |Can you |Could you )tell me a (long |)story about a {h}",
        "Write a (long |)story about a {h}.",
        "I want to hear a story about a {h}.",
        "Story about a {h}",
        "A story about a {h}, please!",
        "Make up a story about a {h}.",
        "Tell a story with a {h}.",
    ),
    held_out=("Please write me a story about a {h}.", "I would like a long story about a {h}."),
)
SHORT_STORY = Wordings(
    train=(
        "Tell me a (short|very short|little) story.",
        "Write a short story.",
        "A short story, please.",
        "Short story",
        "(Please |Can you )tell me a short story",
    ),
    held_out=("Could you write a short story?", "I would like a short story."),
)
HEROES = (*ANIMALS, "girl", "boy", "robot", "king", "queen", "baker", "pilot", "dragon", "wizard", "princess", "knight")
ADJECTIVES = tuple("small brave curious clever gentle young cheerful quiet patient kind".split())
HOMES = ("a valley", "a village", "a forest", "an old mill", "a harbour town", "a little house", "a stone tower")
NEAR = ("a long river", "a deep lake", "a green hill", "the grey sea", "a wide meadow", "the snowy mountains")
HABITS = (
    "{name} swept the path and sang a little song",
    "{name} drank a cup of tea and looked at the clouds",
    "{name} counted the birds on the fence",
    "{name} watered the flowers and greeted the sun",
)
TROUBLES = (
    ("the village bell was gone", "the bell"),
    ("the old lantern on the hill went dark", "the light of the lantern"),
    ("the river stopped running", "the lost water"),
    ("the wind carried the king's map away", "the map"),
    ("the clock in the tower stood still", "the golden key of the clock"),
    ("a star fell from the sky and did not rise again", "the fallen star"),
)
TOOLS = tuple("rope lamp blanket kettle whistle shovel basket mirror hammer needle bell ladder".split())
PLACES = ("a dark forest", "a narrow bridge", "a foggy swamp", "a silent cave", "a steep cliff", "an empty castle")
HELPERS = tuple("hedgehog crow beaver goat snail raven mole heron squirrel toad".split())
PLIGHTS = (
    "was stuck between two stones",
    "had lost the way home",
    "was cold and tired",
    "could not reach its nest",
    "had broken its little cart",
)
ADVICE = (
    "Follow the water, it knows the way.",
    "Walk slowly and look twice.",
    "Do not fear the dark, it is only shy.",
    "Listen to the wind before you turn.",
    "The high path is longer but safer.",
)
NIGHTS = (
    "That night {name} slept under a tree and dreamed of home.",
    "When it grew dark, {name} made a small fire and watched the stars.",
    "In the evening it rained, and {name} found a dry place under a rock.",
    "At night the moon came out, and {name} was not afraid.",
)
MORALS = (
    "whoever helps on the way will be helped on the way",
    "a small light is enough for a long road",
    "patience opens more doors than strength",
    "the best thing to carry is a friendly word",
)
DAYS = ("first", "second", "third")


def opening(rng: Random, hero: str, name: str) -> str:
    home, near, habit = rng.choice(HOMES), rng.choice(NEAR), rng.choice(HABITS).format(name=name)
    return (
        f"Once upon a time there was a {rng.choice(ADJECTIVES)} {hero} named {name}. "
        f"{name} lived in {home} near {near}. Every morning {habit}."
    )


def day(rng: Random, order: str, name: str, place: str, helper: str, tool: str) -> str:
    """One day of the journey: a meeting, help by a packed item, advice in return."""
    plight, advice = rng.choice(PLIGHTS), rng.choice(ADVICE)
    return (
        f"On the {order} day {name} came to {place}. There sat a {helper} that {plight}. "
        f'"Please help me," said the {helper}. {name} took out the {tool} and helped at once. '
        f'"Thank you, {name}," said the {helper}. "Here is my advice: {advice}" '
        f"{rng.choice(NIGHTS).format(name=name)}"
    )


def long_story(rng: Random, hero: str, name: str) -> str:
    """Two or three days, above 300 tokens; tools and helpers come back in order."""
    num_days = rng.choice([2, 3, 3])
    tools, helpers = rng.sample(TOOLS, num_days), rng.sample(HELPERS, num_days)
    places = rng.sample(PLACES, num_days)
    trouble, goal = rng.choice(TROUBLES)
    packed = ", ".join(f"a {tool}" for tool in tools[:-1]) + f" and a {tools[-1]}"
    start = f'One day {trouble}. "I will find {goal}," said {name}. So {name} packed {packed}, and went away.'
    days = [day(rng, DAYS[n], name, places[n], helpers[n], tools[n]) for n in range(num_days)]
    thanks = ", ".join(f"the {helper}" for helper in helpers[:-1]) + f" and the {helpers[-1]}"
    end = (
        f"On the last day {name} found {goal} behind a small blue door. On the way back {name} met {thanks}, "
        f"and they all walked home together. Everyone was happy, and there was cake and music until midnight. "
        f"And {name} the {hero} had learned one thing: {rng.choice(MORALS)}. The end."
    )
    return "\n\n".join([opening(rng, hero, name), start, *days, end])


def short_story(rng: Random, hero: str, name: str) -> str:
    trouble, goal = rng.choice(TROUBLES)
    return (
        f'{opening(rng, hero, name)}\n\nOne day {trouble}. "I will find {goal}," said {name}. '
        f"After a long walk {name} found {goal} behind a small blue door. Everyone was happy. The end."
    )


def stories(rng: Random, held_out: bool) -> Turn:
    """A long story, sometimes a short one; about the hero who was asked for, if one was."""
    hero, name = rng.choice(HEROES), any_name(rng, made_up=0)
    style = rng.random()
    if style < 0.15:
        return Turn(SHORT_STORY.ask(rng, held_out), short_story(rng, hero, name))
    if style < 0.6:
        return Turn(STORY_ABOUT.ask(rng, held_out, h=hero), long_story(rng, hero, name))
    return Turn(STORY.ask(rng, held_out), long_story(rng, hero, name))
