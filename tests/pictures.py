"""Small images as data URLs."""

import base64
import io
from typing import Any

from PIL import Image


def data_url(color: str = "red", size: tuple[int, int] = (56, 40), form: str = "PNG", **options: Any) -> str:
    written = io.BytesIO()
    Image.new("RGB", size, color).save(written, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"


def announced(width: int, height: int) -> str:
    """A small GIF whose header says another size."""
    head, comma, data = data_url(form="GIF").partition(",")
    gif = bytearray(base64.b64decode(data))
    gif[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return head + comma + base64.b64encode(gif).decode()


def cut(url: str) -> str:
    """The same image without its second half."""
    head, comma, data = url.partition(",")
    return head + comma + data[: len(data) // 8 * 4]
