"""A folder that a run writes into: whether it can is known before the work begins, not after it."""

import tempfile
from pathlib import Path

from instantnet.engine.errors import UserError


def writable_folder(path: Path | str, named: str) -> Path:
    """The folder, made if it is not there. named: the option or setting it comes from, for the message.

    Raises UserError where nothing can be written in it.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"{named}: cannot write there ({error.strerror})") from error
