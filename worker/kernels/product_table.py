"""What was measured about products on this machine, kept in a file so that the next start need not measure again."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType

logger = logging.getLogger(__name__)

Choice = tuple[int, ...]  # the numbers of a kernel's configuration; empty: torch
FORMAT = 1


class ProductTable:
    """Choices by product ("int8 bfloat16 4096x14336 rows 8") for one environment: GPU, versions, kernels.

    The file holds several environments, as {"format": 1, "environments": {environment: {product: choice}}}. What
    cannot be read counts as empty, and a file that cannot be written is a warning: the next start measures again.
    """

    def __init__(self, path: Path | None, environment: str) -> None:
        self.path = path
        self.environment = environment
        self.choices = dict(environments_of(path).get(environment, {}))
        self.is_changed = False

    def find(self, product: str) -> Choice | None:
        """None if it has not been measured."""
        return self.choices.get(product)

    def put(self, product: str, choice: Choice) -> None:
        self.choices[product] = choice
        self.is_changed = True

    def save(self) -> None:
        """Replace the file as a whole, if something was put."""
        if self.path is None or not self.is_changed:
            return
        environments = {**environments_of(self.path), self.environment: self.choices}
        text = json.dumps({"format": FORMAT, "environments": environments}, indent=1)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=self.path.parent, prefix=self.path.name, delete=False) as file:
                file.write(text)
            os.replace(file.name, self.path)
        except OSError as error:
            logger.warning("measured products are not kept in %s: %s", self.path, error.strerror)
        self.is_changed = False


def environments_of(path: Path | None) -> Mapping[str, Mapping[str, Choice]]:
    """The content of a table's file; empty for a file that is missing, broken, or of another kind."""
    if path is None or not path.is_file():
        return MappingProxyType({})
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        return {
            str(environment): {str(product): choice_of(choice) for product, choice in products.items()}
            for environment, products in found["environments"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("measured products in %s are not used: %s", path, error)
        return MappingProxyType({})


def choice_of(found: object) -> Choice:
    """Raises ValueError for what is no list of whole numbers."""
    if not isinstance(found, list) or not all(type(number) is int for number in found):
        raise ValueError(f"{found!r} is no choice")
    return tuple(found)
