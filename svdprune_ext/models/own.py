"""What belongs to one model: sides that are not copied, and attributes that are put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class OfOneModel:
    """A side of a patched model. A copy of the model would go on working on the first one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "svdprune_ext: a patched model cannot be copied or pickled; call remove() on its handle, and "
            "apply() to the copy"
        )


def put(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute of an instance.

    Returns:
        What puts back the instance's own, or removes it where it had none.
    """
    had, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)

    def undo() -> None:
        if had:
            setattr(owner, name, before)
        else:
            vars(owner).pop(name, None)

    return undo
