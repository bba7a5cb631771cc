"""One example of each dialect that writes calls as code."""

from tests.api.reading.dialects.example import Example

LITERALS: dict[str, Example] = {}
