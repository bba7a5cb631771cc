"""Files in a message of `omni chat`: @path."""

import base64
import os
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from cli.terminal import callers_path

MAX_TEXT_BYTES = 2**20
MAX_IMAGE_BYTES = 5 * 2**20  # in base64 and with the rest of the conversation below the 8 MiB of a request
IMAGES = MappingProxyType(
    {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
)
MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
PLAIN = re.compile(r"(?<!\S)\\@")


def content_of(text: str) -> str | list[dict[str, Any]]:
    """The message with the files that it names, @path or @"path": texts behind it, images as parts. `\\@` is a plain @.

    Raises ClickException for a path that is no file, unless it may be a name, as in @anna.
    """
    texts, images = [], []
    for name in dict.fromkeys(quoted or plain for quoted, plain in MENTION.findall(text)):
        path = callers_path(name)
        is_file = os.path.isfile(path)  # False for what this user may not see, too
        if is_file and path.suffix.lower() in IMAGES:
            images.append({"type": "image_url", "image_url": {"url": data_url(path)}})
        elif is_file:
            texts.append(f"\n\n{name}:\n```\n{text_of(path)}\n```")
        elif "/" in name or "." in name.strip("."):
            raise click.ClickException(
                f"@{name} is no file that you may read; correct the path, or write \\@{name} for the text itself."
            )
    whole = PLAIN.sub("@", text) + "".join(texts)
    return [{"type": "text", "text": whole}, *images] if images else whole


def text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise click.ClickException(f"@{path} is larger than 1 MiB; name a smaller file or a part of it.")
        return path.read_text()
    except UnicodeError:
        kinds = ", ".join(IMAGES)
        raise click.ClickException(f"@{path} is not UTF-8 text; texts and images ({kinds}) can be sent.") from None
    except OSError as error:
        raise click.ClickException(f"@{path} cannot be read: {error.strerror}.") from None


def data_url(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise click.ClickException(f"@{path} is larger than 5 MiB; send a smaller image.")
        return f"data:{IMAGES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise click.ClickException(f"@{path} cannot be read: {error.strerror}.") from None
