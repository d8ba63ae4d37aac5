"""Sources: the objects and backgrounds of clips, opened, checked and passed as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.core.errors import UserError
from smile_synth.objects import ObjectBank


@dataclass(frozen=True)
class Sources:
    """The objects and the backgrounds of clips.

    Attributes:
        objects: the bank of objects.
        backgrounds: images and videos; None: recipes with image or video backgrounds are refused.

    Example:
        >>> sources = Sources.open("objects.bank", "photos")
        >>> len(sources.objects)
        10
    """

    objects: ObjectBank
    backgrounds: BackgroundFolder | None = None

    @classmethod
    def open(
        cls,
        objects: str | Path,
        backgrounds: str | Path | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Sources:
        """Open a bank and, if given, a folder or a list of backgrounds.

        Args:
            objects: path of the bank.
            backgrounds: path of the folder, or of a text file of paths.
            progress: called with (number of indexed files, number of files) while backgrounds are indexed.

        Raises:
            UserError: a path does not exist, or its content cannot be read.
        """
        folder = None if backgrounds is None else BackgroundFolder(backgrounds, progress=progress)
        return cls(ObjectBank.open(objects), folder)

    def check(self, bank_digest: str, background_digest: str, *, of: str = "scene") -> None:
        """Check that a scene or corpus was made from these sources.

        Args:
            bank_digest: digest of its objects.
            background_digest: digest of its backgrounds; empty: it has none.
            of: ``scene`` or ``corpus``, for the message.

        Raises:
            UserError: a digest differs.
        """
        if bank_digest != self.objects.digest:
            raise UserError(f"bank '{self.objects.path}': is not the bank of this {of} (its digest differs)")
        if background_digest and (self.backgrounds is None or background_digest != self.backgrounds.digest):
            raise UserError(f"backgrounds: are not the backgrounds of this {of} (their digest differs)")
