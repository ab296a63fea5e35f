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
            return upright.convert("RGB"), path.name
    except Exception as error:  # of any type: what fails is up to the format's reader
        raise SettingsError(f"PHOTO: not a readable image: {path} ({error})") from error
