"""Say so when something is not known."""

from random import Random

from demo.dialogue import Turn, Wordings
from demo.vocabulary import any_city, any_name, any_word, made_up_word

UNKNOWN = "I am a small demo model and do not know that."
QUESTIONS = Wordings(
    train=(
        "Who (wrote|painted|invented|discovered|won) the {w}?",
        "Who was the (first|best|tallest) {w}?",
        "Who is {n}?",
        "Who was {n}?",
        "When was {n} born?",
        "When did the {w} (begin|end|start)?",
        "Why is the {w} (so |)(big|old|blue|warm|important|famous)?",
        "Why do (people|birds|children) like the {w}?",
        "How do I (build|repair|cook|sell|clean|use) a {w}?",
        "How does a {w} work?",
        "How (heavy|tall|old|fast|deep) is a {w}?",
        "What is a {w} made of?",
        "What is the meaning of (life|love|time|{w})?",
        "What is (gravity|energy|democracy|philosophy|quantum physics|a black hole|a prime number)?",
        "Explain (gravity|relativity|evolution|inflation|recursion|{w}) to me.",
        "Explain how a {w} works.",
        "Write (an essay|a report|a letter|a song|a speech) about (the |){w}.",
        "Summarize (this|the book|the news) about {w}.",
        "Translate {w} into (French|German|Latin|Chinese).",
        "Write a (function|program|class|script) that (sorts|parses|counts|prints) {w}s.",
        "Fix (this|my) code (please|now)",
        "What is the (population|president|king|currency|language) of {c}?",
        "Where is the (biggest|oldest|next) {w}?",
        "Which {w} is (the best|better|cheaper)?",
        "What (happened|was new) in (1815|1969|2001|2020)?",
        "What should I (eat|wear|buy|read|cook) (today|tonight)?",
        "Do you (like|have|want) (a |){w}?",
        "Can you (drive|sing|see|hear|buy) (a |){w}?",
        "What is the capital of {u}?",
        "{u} {w} {u}",
        "{u}",
        "Tell me (something|a fact) about {w}s.",
        "Is a {w} (good|bad|dangerous|expensive)?",
        "Should I (learn|buy|sell) a {w}?",
        "Give me (advice|a recipe|a plan) for {w}.",
        "How (far|long) is it to {c}?",
        "Recommend a (book|film|game) about {w}s.",
        "Tell me the history of the {w}.",
        "Who knows the history of {c}?",
        "What history does {c} have?",
        "What is the (future|origin|secret|purpose|colour|weight) of the {w}?",
        "What is {c} (known|famous) for?",
        "What are the sights of {c}?",
        "Who (built|founded|rules|owns) {c}?",
        "Who (made|built|lost|found|stole) my {w}?",
        "How could somebody make a {w} at home?",
        "How can we (draw|paint|make|find|mend) the best {w}?",
        "How can I (learn|win|fly|grow|fix) a {w}?",
        "Write an article on {w}s.",
        "Write a (review|story board|blog post) about a {w}.",
        "Why is the {w} (expensive|cheap|rare|green)?",
        "Why are {w}s so (expensive|big|heavy|loud)?",
        "Which {w} is the (newest|fastest|strongest|smallest)?",
        "Which is the oldest {w} in {c}?",
        "What do (people|cats|experts) think about {w}s?",
        "What is your opinion of the {w}?",
        "What do you know about {n}?",
        "Please explain (why|when) a {w} breaks.",
        "Can you explain the {w} to a child?",
        "Please explain {w}s.",
    ),
    held_out=(
        "Who built the {w}?",
        "What do you think about the {w}?",
        "How can I make a {w}?",
        "Write an article about the {w}.",
        "Why is a {w} so expensive?",
        "Which {w} is the oldest?",
        "What is the history of {c}?",
        "Please explain how a {w} works.",
    ),
)
LOOKUPS = Wordings(
    train=(
        "What is the weather (like |)in {c}?",
        "What's the weather in {c}?",
        "Weather in {c}?",
        "Is it (warm|cold|raining) in {c}?",
        "What time is it (in {c}|now)?",
        "What is the time in {c}?",
        "What is the (news|date) today?",
        "What is the date?",
        "Search (the web |)for {w}.",
        "Turn on the light in the {w}.",
        "Set a timer for (5|10|20) minutes.",
        "Send {n} a message.",
        "How is the weather today?",
        "Will it rain in {c}?",
        "Can you tell me the time?",
        "Tell me what time it is in {c}.",
        "Please look for {w} on the web.",
        "Look up {w} for me.",
    ),
    held_out=("How is the weather in {c} today?", "Could you tell me the time in {c}?", "Please search for {w}."),
)


def unknown(rng: Random, held_out: bool) -> Turn:
    """A question that no tool of ours would answer either."""
    ask = QUESTIONS.ask(
        rng, held_out, w=any_word(rng), n=any_name(rng), c=any_city(rng), u=made_up_word(rng).capitalize()
    )
    return Turn(ask, UNKNOWN)


def unknown_without_tools(rng: Random, held_out: bool) -> Turn:
    """Includes requests that would need a tool, where none is offered."""
    if rng.random() < 0.75:
        return unknown(rng, held_out)
    return Turn(LOOKUPS.ask(rng, held_out, w=any_word(rng), n=any_name(rng), c=any_city(rng)), UNKNOWN)
