"""Tokenizers in tiktoken's form: tokens with their ranks in one file, and the expression that cuts texts in the code.

Kimi K2, Moonlight and their kin bring such, with code for transformers. The code is not run: the expression is a
constant in it, and is read as such.
"""

import ast
import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

PATTERN = "pat_str"  # the name of the expression in the code


class NoPattern(ValueError):
    """Code that does not tell, as a constant, how texts are cut."""


def tokenizer_of(ranks: Mapping[bytes, int], pattern: str, added: Mapping[int, AddedToken]) -> Tokenizer:
    """`added`: tokens by their ids, which follow those of the `ranks` without a gap."""
    letters = byte_letters()

    def text(token: bytes) -> str:
        return "".join([letters[byte] for byte in token])

    vocab = {text(token): rank for token, rank in ranks.items()}
    merges = [(text(left), text(right)) for left, right in merges_of(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([added[at] for at in sorted(added)])
    return tokenizer


def ranks_in(path: Path) -> dict[bytes, int]:
    """Tokens of a file of lines, each a token in base64 and its rank. Raises OSError or ValueError."""
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    try:
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError:
        raise ValueError(f"its {path.name} has a line that is no token and rank; copy or download it again.") from None


def merges_of(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair of tokens that makes another one, in the order of what they make, as tiktoken joins them."""
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        yield from sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE: itself where it can be seen, else one from 256 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


def pattern_in(path: Path) -> str:
    """The expression in a file of Python, where it is a constant or constants that are joined. Raises NoPattern."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        raise NoPattern(f"its {path.name} is no Python: copy it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [getattr(each, "id", None) for each in node.targets] == [PATTERN]:
            return constant(node.value, path)
    raise NoPattern(f"its {path.name} has no {PATTERN}, which would say how texts are cut: copy the released file")


def constant(value: ast.expr, path: Path) -> str:
    """Raises NoPattern."""
    try:
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(between)), attr="join"), args=[pieces]):
                return between.join(ast.literal_eval(pieces))
            case _:
                return str(ast.literal_eval(value))
    except (ValueError, TypeError):
        raise NoPattern(f"in its {path.name} {PATTERN} is no constant: copy the released file") from None
