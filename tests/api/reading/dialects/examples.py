"""The example of every dialect, by its name."""

from tests.api.reading.dialects.literals.examples import LITERALS
from tests.api.reading.dialects.objects.examples import OBJECTS
from tests.api.reading.dialects.tags.examples import TAGS

EXAMPLES = OBJECTS | TAGS | LITERALS
