"""The words, names and places that the skills draw on."""

from random import Random

WORDS = tuple(
    """apple arrow autumn badge baker ball banana banjo basket beach bean bear bed bell bench berry bird blanket boat
    bone book boot bottle bowl box branch brave bread brick bridge bright broom brush bucket bus button cabin cake
    camel camera candle candy canoe cap car carpet carrot castle cat cave chair chalk cheese cherry chess circle cliff
    clock cloud clover coat coin comet cook cookie copper corn cotton couch crab crane crayon cream crow crown cup
    curtain dance desk dish dog doll door dragon dream drum duck eagle earth egg elbow engine fan farm feather fence
    fern field finger fire fish flag flame flower flute fog forest fork fox frog fruit garden gate ghost giant gift
    glass globe glove goat gold goose grape grass green guitar hammer hand harbor harp hat hawk hill honey hook horn
    horse house ice igloo ink iron island ivy jacket jam jar jelly jewel juice jungle kettle key king kite kitten
    knot ladder lake lamp lantern leaf lemon lion lizard magnet map maple marble market mask meadow melon milk mint
    mirror moon moose mouse music nail neck needle nest night noodle nose nut oak ocean olive onion orange otter oven
    owl paint palace panda paper park parrot peach pear pearl pen pencil penguin pepper piano pig pillow pilot pine
    planet plate plum pocket poem pond pony potato puppet purple puzzle queen quilt rabbit radio rain ribbon rice ring
    river road robin robot rocket roof rope rose sail salt sand scarf school seed shadow sheep shell ship shoe silver
    sky sled snail snow soap sock song soup spider spoon spring star stone storm stove summer sun swan table tail tea
    tent tiger toast tower toy train tree truck tulip turtle umbrella valley vase violin wagon walnut water whale wheat
    wheel whistle wind window winter wolf wood wool yarn yellow zebra""".split()
)

NAMES = tuple(
    """Ada Alan Alice Amir Anna Ben Bob Boris Carla Carlos Chen Clara Dan David Diego Dora Ella Emil Emma Eva Felix
    Finn Fiona Frank Grace Greta Hana Hans Hugo Ida Igor Iris Ivan Jack Jane John Jonas Julia Karl Kim Lars Laura Leo
    Lily Lina Lucas Lucy Luis Maria Mark Mary Max Maya Mia Mike Mila Mina Nina Noah Nora Olga Oliver Omar Oscar Paul
    Pedro Peter Priya Rita Robert Rosa Ruth Sam Sara Sofia Sven Tara Theo Thomas Tina Tom Uma Vera Victor Wei Yuki Zoe
    """.split()
)

COLOURS = tuple("red blue green yellow purple orange black white brown pink grey silver gold violet turquoise".split())

ANIMALS = tuple(
    """fox cat dog owl bear wolf hare mouse rabbit otter badger hedgehog turtle frog duck goose horse goat sheep pig
    lion tiger panda penguin parrot robin swan deer squirrel beaver raven crow lizard snail whale seal""".split()
)

FOODS = tuple("pizza pasta rice soup bread cheese curry salad sushi noodles pancakes beans stew cake ice-cream".split())

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Switzerland": "Bern",
    "Belgium": "Brussels",
    "the Netherlands": "Amsterdam",
    "England": "London",
    "Scotland": "Edinburgh",
    "Ireland": "Dublin",
    "Denmark": "Copenhagen",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Iceland": "Reykjavik",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Turkey": "Ankara",
    "Ukraine": "Kyiv",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Croatia": "Zagreb",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Ghana": "Accra",
    "Morocco": "Rabat",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Indonesia": "Jakarta",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Canada": "Ottawa",
    "the United States": "Washington",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Cuba": "Havana",
}

CITIES = (
    *CAPITALS.values(),
    *"Munich,Hamburg,Milan,Porto,Lyon,Boston,Chicago,Seattle,San Francisco,New York,Toronto,Sydney,Osaka,Mumbai,Geneva"
    ".Krakow".replace(".", ",").split(","),
)

WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())

MONTHS = tuple("January February March April May June July August September October November December".split())


def made_up_word(rng: Random) -> str:
    """A pronounceable word without meaning, so that copying cannot be memorized."""
    syllables = [rng.choice("bdfgklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3))]
    return "".join(syllables) + rng.choice(["", "n", "r", "s", "l", "t", "x", "ck"])


def any_word(rng: Random, made_up: float = 0.15) -> str:
    return made_up_word(rng) if rng.random() < made_up else rng.choice(WORDS)


def any_name(rng: Random, made_up: float = 0.25) -> str:
    """A first name, rarely with a second one."""
    name = made_up_word(rng).capitalize() if rng.random() < made_up else rng.choice(NAMES)
    return f"{name} {made_up_word(rng).capitalize()}" if rng.random() < made_up / 4 else name


def any_city(rng: Random, made_up: float = 0.2) -> str:
    """A city, rarely with a country behind it."""
    city = made_up_word(rng).capitalize() if rng.random() < made_up else rng.choice(CITIES)
    return f"{city}, {rng.choice(list(CAPITALS))}" if rng.random() < made_up / 3 else city
