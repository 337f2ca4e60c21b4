"""``wsgi.file_wrapper``: a file that the server may send by the kernel's sendfile (PEP 3333)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

_PIECE: Final = 256 * 1024


class FileWrapper:
    """Wraps a file for the response body.

    Returned as it is, the server sends the file without reading it; anything else that a middleware
    makes of it is iterated.

    :param block_size: accepted as PEP 3333 asks; larger pieces than the usual 8 kB are read.
    """

    def __init__(self, file: IO[bytes], block_size: int = _PIECE) -> None:
        self.file = file
        self._block_size = max(block_size, _PIECE)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self.file.read(self._block_size)
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Close the file."""
        if hasattr(self.file, "close"):
            self.file.close()

    # Werkzeug asks for these three to serve a range of the file.

    def seekable(self) -> bool:
        return hasattr(self.file, "seekable") and self.file.seekable()

    def seek(self, *args: Any) -> None:
        self.file.seek(*args)

    def tell(self) -> int:
        return self.file.tell()


class FileRange(NamedTuple):
    """A part of an open file."""

    file: IO[bytes]
    offset: int
    #: In bytes; ``None`` is up to the end.
    size: int | None


def sendable_file(iterable: object) -> FileRange | None:
    """Return the file that an app iterable stands for, if the kernel can send it."""
    offset, size = 0, None
    # Werkzeug wraps the file for a Range request. There is no public way to see which range it is;
    # without this look inside, ranges would be read and written piece by piece.
    if type(iterable).__name__ == "_RangeWrapper":
        offset, size = iterable.start_byte, iterable.byte_range  # type: ignore[attr-defined]
        iterable = iterable.iterable  # type: ignore[attr-defined]
    elif isinstance(iterable, FileWrapper) and iterable.seekable():
        offset = iterable.tell()
    if not isinstance(iterable, FileWrapper) or not iterable.seekable():
        return None
    try:
        iterable.file.fileno()
    except (AttributeError, OSError):
        return None
    return FileRange(iterable.file, offset, size)
