"""One example of each dialect that writes calls as tags."""

from api.reading.dialects.tags.deepseek_v32 import DSML
from tests.api.reading.dialects.example import Example

DEEPSEEK = (
    f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="get_weather">\n'
    f'<{DSML}parameter name="city" string="true">Paris "X" <b></{DSML}parameter>\n'
    f'<{DSML}parameter name="days" string="false">3</{DSML}parameter>\n'
    f'</{DSML}invoke>\n<{DSML}invoke name="now">\n\n</{DSML}invoke>\n</{DSML}function_calls>'
)
TAGS = {
    "deepseek_v32": Example(
        written=DEEPSEEK,
        parts=(
            *(DEEPSEEK, f"<{DSML}function_calls>", f'<{DSML}invoke name="f">', "<", ">", "\n", "1", "hi"),
            *(f'<{DSML}parameter name="a" string="true">', f'<{DSML}parameter name="b" string="false">'),
            *(f"</{DSML}parameter>", f"</{DSML}invoke>", f"</{DSML}function_calls>"),
        ),
        allowed=(
            f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="get_weather">\n'
            f'<{DSML}parameter name="city" string="true">Ro</me"</{DSML}parameter>\n'
            f"</{DSML}invoke>\n</{DSML}function_calls>"
        ),
    ),
}
