"""Images in requests: data URLs of bounded size. Nothing is ever fetched."""

import base64
import binascii
import io
import re

from PIL import Image, ImageOps

from common.errors import InvalidRequest

MAX_IMAGES = 8  # in one request; together they must also fit the body
MAX_IMAGE_BYTES = 4 * 1024 * 1024
MAX_IMAGE_PIXELS = 4096 * 4096
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,20};base64,")
FAULTS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def opened(url: str, param: str | None = None) -> Image.Image:
    """Read the image's header and check its size; the pixels are not decoded yet. Raises InvalidRequest."""
    head = DATA_URL.match(url[:64])
    if head is None:
        raise InvalidRequest(
            "An image must come as a data URL (data:image/png;base64,...): this server fetches nothing.", param=param
        )
    if (len(url) - head.end()) * 3 // 4 > MAX_IMAGE_BYTES:
        raise InvalidRequest(f"An image may have {MAX_IMAGE_BYTES} bytes.", param=param)
    try:
        image = Image.open(io.BytesIO(base64.b64decode(url[head.end() :], validate=True)), formats=FORMATS)
    except (binascii.Error, *FAULTS):
        raise InvalidRequest(f"An image could not be read; {', '.join(FORMATS)} can.", param=param) from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise InvalidRequest(f"An image may have {MAX_IMAGE_PIXELS} pixels.", param=param)
    return image


def decoded(url: str) -> Image.Image:
    """The upright RGB image. Raises InvalidRequest."""
    image = opened(url)
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except FAULTS:
        raise InvalidRequest("An image is damaged.") from None
