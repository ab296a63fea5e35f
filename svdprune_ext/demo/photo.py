"""The photograph: from any image file, or the one that scikit-image ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from svdprune_ext.demo.settings import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image


def load_photo(path: Path | None) -> tuple[Image, str]:
    """Reads the photograph in RGB, turned as its camera was held.

    Args:
        path: An image file; None takes the astronaut photograph (NASA, public domain).

    Returns:
        The photograph, and a name for it.

    Raises:
        SettingsError: The file cannot be read as an image.
    """
    from PIL import Image, ImageOps

    if path is None:
        from skimage import data

        return Image.fromarray(data.astronaut()), "scikit-image's astronaut (NASA)"
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) or image
            return _in_rgb(upright), path.name
    except Exception as error:  # of any type: what fails is up to the format's reader
        raise SettingsError(f"PHOTO: not a readable image: {path} ({error})") from error


def _in_rgb(image: Image) -> Image:
    """In RGB of 8 bits. Pillow itself cuts greys of more bits off at 255, so that most are white.

    Raises:
        ValueError: The greys are floating-point numbers, of which none is known to be white.
    """
    import numpy as np
    from PIL.Image import fromarray

    if image.mode == "F":
        raise ValueError("its greys are floating-point numbers")
    if image.mode.startswith("I"):  # "I;16", or "I" of a 16-bit PGM
        greys = np.asarray(image).clip(0, 65535) // 257
        image = fromarray(greys.astype(np.uint8))
    return image.convert("RGB")
