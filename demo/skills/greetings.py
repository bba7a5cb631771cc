"""Small talk: hello, how are you, thanks, goodbye."""

from random import Random

from demo.dialogue import Turn, Wordings

HELLO = Wordings(
    train=(
        "Hello",
        "Hello!",
        "Hi",
        "Hi!",
        "Hey",
        "Hi there!",
        "Hello there!",
        "Good (morning|evening|day)!",
        "Good (morning|afternoon|evening), (friend|model|everyone)!",
        "A good afternoon to you!",
        "Hi again",
        "Hello to you, friend",
        "Hey there",
        "Greetings!",
        "Hello, (model|assistant|robot|friend)!",
        "Hi, (assistant|friend)",
        "Hello hello",
        "Howdy",
        "Say hello",
        "Say hi",
        "Hello, world!",
        "Hello, nice to meet you.",
    ),
    held_out=("Hey, friend!", "Good afternoon!", "Hi hi", "Hello again!", "Hello, my friend"),
)
HOW_ARE_YOU = Wordings(
    train=(
        "Hello, how are you?",
        "Hello! How are you?",
        "Hello, how are you (today|doing)?",
        "Hi, how are you?",
        "Hey, how are you?",
        "How are you?",
        "How are you (today|doing|feeling)?",
        "How do you feel today?",
        "How is it going?",
        "Hi! How is it going?",
        "How is your day?",
        "Are you well?",
        "How do you do?",
        "Hello there, how are you (doing|today)?",
        "Good morning, how are you?",
        "So, how are you?",
        "How have you been?",
        "Are you OK?",
        "Hey! How do you feel?",
        "How was your day?",
        "Hi there, how are you (today|doing)?",
        "Tell me, how are you?",
    ),
    held_out=(
        "Hey there, how are you doing today?",
        "Hi, how do you feel?",
        "And how are you?",
        "Hey, how is your day?",
    ),
)
THANKS = Wordings(
    train=(
        "Thanks!",
        "Thank you!",
        "Thank you very much.",
        "Many thanks",
        "Thanks a lot!",
        "Thank you, that (helps|is all).",
        "Great, thanks!",
        "Good (job|work)!",
        "Well done!",
        "Nice, thank you",
        "Ok thanks",
        "Thank you so much for this!",
        "Very nice, thanks!",
        "Thank you for your help.",
    ),
    held_out=("Very good, thank you!", "Thanks so much!", "Great, thank you for that."),
)
BYE = Wordings(
    train=(
        "Bye",
        "Goodbye!",
        "Bye bye!",
        "See you later!",
        "See you (soon|tomorrow)!",
        "Good night!",
        "I have to go now.",
        "Farewell!",
        "That is all, bye!",
        "Ok, goodbye",
        "Until next time!",
        "Bye, see you!",
        "I must leave, goodbye",
        "Goodbye for today!",
    ),
    held_out=("Bye for now!", "Goodbye, see you tomorrow!", "I must go, bye"),
)

HELLO_ANSWERS = ("Hello! How can I help you?", "Hello! What can I do for you?")
HOW_ANSWERS = ("Hello! I am doing well, thank you for asking.", "I am doing well, thank you for asking.")
THANKS_ANSWER = "You are welcome!"
BYE_ANSWER = "Goodbye! Have a nice day."


def hello(rng: Random, held_out: bool) -> Turn:
    return Turn(HELLO.ask(rng, held_out), HELLO_ANSWERS[0], accepted=HELLO_ANSWERS)


def how_are_you(rng: Random, held_out: bool) -> Turn:
    """An ask that begins with a greeting is greeted back."""
    ask = HOW_ARE_YOU.ask(rng, held_out)
    greets = ask.lower().startswith(("hello", "hi", "hey", "good"))
    return Turn(ask, HOW_ANSWERS[0] if greets else HOW_ANSWERS[1], accepted=HOW_ANSWERS)


def thanks(rng: Random, held_out: bool) -> Turn:
    return Turn(THANKS.ask(rng, held_out), THANKS_ANSWER)


def goodbye(rng: Random, held_out: bool) -> Turn:
    return Turn(BYE.ask(rng, held_out), BYE_ANSWER)


def small_talk(rng: Random, held_out: bool) -> Turn:
    """One of the four, hello and how-are-you most often."""
    (kind,) = rng.choices([hello, how_are_you, thanks, goodbye], weights=[3, 4, 2, 2])
    return kind(rng, held_out)
