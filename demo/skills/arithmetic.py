"""Sums up to 99, times tables up to 10, and counting."""

from random import Random

from demo.dialogue import Turn, Wordings

EXPRESSION = Wordings(
    train=(
        "What is {e}?",
        "What's {e}?",
        "{e}",
        "{e} =",
        "{e} = ?",
        "{e}?",
        "(Please calculate|Calculate|Compute) {e}.",
        "How much is {e}?",
        "(Please tell|Tell) me what {e} is.",
        "Solve {e}",
        "Work out {e}.",
        "(Can|Could) you (calculate|compute|solve) {e}?",
        "What do you get for {e}?",
        "Give me the result of {e}.",
        "I need the answer to {e}.",
        "Do you know what {e} is?",
        "What is the (answer|result) of {e}?",
        "Quick: {e}",
        "Hey, what is {e}?",
        "Evaluate {e}",
        "Could you tell me what {e} is?",
        "I would like to know {e}.",
        "Would you work out {e} for us?",
        "Let me know what {e} is.",
        "How much would {e} be?",
        "What does {e} give?",
        "I want the result of {e}.",
        "How much do we have with {e}?",
    ),
    held_out=(
        "Could you work out {e} for me?",
        "Please tell me the result of {e}.",
        "So what is {e}?",
        "How much do you get for {e}?",
        "I want to know what {e} is.",
    ),
)
ADD = Wordings(
    train=(
        "Add {a} and {b}.",
        "Add {a} to {b}.",
        "What is the sum of {a} and {b}?",
        "Sum of {a} and {b}",
        "Sum up {a} and {b}.",
        "I have {a} (apples|coins|books) and get {b} more. How many do I have?",
        "{a} and {b} together?",
        "How much is {a} and {b}?",
        "(Can|Could) you add {a} and {b}?",
        "I want the sum of {a} and {b}.",
        "What do {a} and {b} make together?",
    ),
    held_out=("Please add {a} and {b}.", "Give me the sum of {a} and {b}."),
)
SUBTRACT = Wordings(
    train=(
        "Subtract {b} from {a}.",
        "Take {b} from {a}.",
        "What is {a} less {b}?",
        "I have {a} (apples|coins|books) and give {b} away. How many are left?",
        "What is left if I take {b} from {a}?",
        "(Can|Could) you subtract {b} from {a}?",
        "How much remains if I take {b} from {a}?",
        "Now subtract {b} from {a}.",
    ),
    held_out=("Please subtract {b} from {a}.", "How much is left if I take {b} from {a}?"),
)
MULTIPLY = Wordings(
    train=(
        "Multiply {a} by {b}.",
        "Multiply {a} and {b}.",
        "What is the product of {a} and {b}?",
        "Product of {a} and {b}",
        "(Can|Could) you multiply {a} by {b}?",
        "I want the product of {a} and {b}.",
    ),
    held_out=("Please multiply {a} by {b}.", "Give me the product of {a} and {b}."),
)
COUNT = Wordings(
    train=(
        "Count from {a} to {b}.",
        "(Please |Can you |)count from {a} to {b}.",
        "Count: {a} to {b}",
        "List the numbers from {a} to {b}.",
        "Give me all numbers from {a} to {b}.",
        "Numbers from {a} to {b}",
        "Count up from {a} to {b}",
        "Say the numbers {a} to {b}.",
        "Start at {a} and count to {b}.",
        "Start with {a}, stop at {b}, and count.",
        "Count the numbers from {a} to {b} for us.",
        "Would you count from {a} to {b} for the class?",
        "I want to hear the numbers from {a} to {b}.",
        "Show me the numbers from {a} up to {b}.",
        "Write the numbers from {a} to {b}.",
        "Count with me, from {a} to {b}!",
        "Which numbers go from {a} to {b}?",
    ),
    held_out=(
        "Could you count from {a} to {b}?",
        "Tell me the numbers from {a} to {b}.",
        "Count for me from {a} to {b}.",
    ),
)
SIGN_WORDS = {"+": ("plus",), "-": ("minus",), "*": ("times", "x", "multiplied by"), "/": ("divided by",)}
VERBAL = {"+": ADD, "-": SUBTRACT, "*": MULTIPLY}
TOO_BIG = "I am a small demo model: my sums stop at 99 and my times tables at 10."


def is_held_out_pair(a: int, sign: str, b: int) -> bool:
    """One pair of larger operands in twelve is never trained on."""
    return sign in "+-" and max(a, b) > 20 and (a * 7 + b * 13 + ord(sign)) % 12 == 0


def draw_operands(rng: Random, sign: str) -> tuple[int, int]:
    """Operands within the taught range; small ones more often."""
    if sign in "*/":
        a, b = rng.randint(0 if sign == "*" else 1, 10), rng.randint(1, 10)
        return (a, b) if sign == "*" else (a * b, b)
    largest = 20 if rng.random() < 0.35 else 99
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    if sign == "-" and a < b and rng.random() < 0.8:
        a, b = b, a
    return a, b


def result_of(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]


def phrase(rng: Random, a: int, sign: str, b: int) -> str:
    """The expression in signs or in words."""
    style = rng.random()
    if style < 0.45:
        return f"{a} {sign} {b}"
    if style < 0.7:
        return f"{a}{sign}{b}"
    return f"{a} {rng.choice(SIGN_WORDS[sign])} {b}"


def ask_sum(rng: Random, held_out: bool, a: int, sign: str, b: int) -> Turn:
    if sign in VERBAL and rng.random() < 0.25:
        ask = VERBAL[sign].ask(rng, held_out, a=a, b=b)
    else:
        ask = EXPRESSION.ask(rng, held_out, e=phrase(rng, a, sign, b))
    value = result_of(a, sign, b)
    return Turn(ask, f"{a} {sign} {b} = {value}.", short=str(value))


def draw_sum(rng: Random, signs: str, new_operands: bool = False) -> tuple[int, str, int]:
    """A sum whose operands are all from the trained pairs, or all from those kept back."""
    while True:
        sign = rng.choice(signs)
        a, b = draw_operands(rng, sign)
        if is_held_out_pair(a, sign, b) == new_operands:
            return a, sign, b


def sums(rng: Random, held_out: bool) -> Turn:
    return ask_sum(rng, held_out, *draw_sum(rng, "+-"))


def sums_new_operands(rng: Random, held_out: bool) -> Turn:
    """For the evaluation alone: operand pairs that were never trained on."""
    return ask_sum(rng, held_out, *draw_sum(rng, "+-", new_operands=True))


def tables(rng: Random, held_out: bool) -> Turn:
    return ask_sum(rng, held_out, *draw_sum(rng, "**/"))


def drill(rng: Random) -> Turn:
    """Several sums at once, to practise more of them per dialogue."""
    drawn = [draw_sum(rng, "++--*") for _ in range(rng.randint(2, 6))]
    ask = ", ".join(f"{a}{sign}{b}" for a, sign, b in drawn)
    return Turn(ask, ", ".join(f"{a} {sign} {b} = {result_of(a, sign, b)}" for a, sign, b in drawn) + ".")


def too_big(rng: Random, held_out: bool) -> Turn:
    """A sum outside the taught range is declined."""
    sign = rng.choice("++-**")
    a, b = rng.randint(100, 10 ** rng.randint(3, 5)), rng.randint(2, 10 ** rng.randint(1, 4))
    if sign == "*" and rng.random() < 0.5:
        a, b = rng.randint(11, 99), rng.randint(11, 99)
    elif rng.random() < 0.3:
        a, b = b, a
    return Turn(EXPRESSION.ask(rng, held_out, e=phrase(rng, a, sign, b)), TOO_BIG)


def counting(rng: Random, held_out: bool) -> Turn:
    low = rng.randint(0, 80)
    first = rng.choice([1, 1, 1, low] if held_out else [1, low, low, low])
    last = first + rng.randint(2, 19)
    ask = COUNT.ask(rng, held_out, a=first, b=last)
    return Turn(ask, ", ".join(str(number) for number in range(first, last + 1)))
