"""Where data come from: which format a path means, and that reading it cannot hang or take more memory than there is.

Only regular files are opened, for a FIFO or a device may never end; standard input is read where `-` asks for it, into
a file. What is packed is read through a counter: a few bytes may unpack to terabytes.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import os
import pathlib
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

Path = str | os.PathLike

FORMATS = {
    ".csv": "delimited", ".tsv": "delimited", ".txt": "delimited", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".npy": "npy", ".npz": "npz", ".safetensors": "safetensors",
    ".svm": "svmlight", ".svmlight": "svmlight", ".libsvm": "svmlight", ".idx": "idx", "-ubyte": "idx",
}  # fmt: skip
PACKINGS = (".gz", ".bz2", ".zst")
# How a file begins, where its name does not tell.
_MAGIC = (
    (b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\x93NUMPY", "npy"), (b"PK\x03\x04", "npz"), (b"\0\0\x08", "idx"),
)  # fmt: skip
_PACKED = ((b"\x1f\x8b", ".gz"), (b"BZh", ".bz2"), (b"\x28\xb5\x2f\xfd", ".zst"))
# Tables shrink to a tenth, seldom to a fiftieth of their size; what exists to fill the memory, to a thousandth.
MOST_UNPACKED = 200
SMALL = 2**26  # bytes that are not worth a question
_PIECE = 2**20
STANDARD_INPUT = "-"


class Source(NamedTuple):
    """A file that may be opened.

    Attributes:
      name: as the user wrote it, for messages.
      path: where its bytes are; a folder only for "parquet".
      format: one of the values of FORMATS.
      packing: one of PACKINGS, or "".
      size: bytes on the disk.
    """

    name: str
    path: pathlib.Path
    format: str
    packing: str
    size: int


@contextlib.contextmanager
def find_source(path: Path) -> Iterator[Source]:
    """The file that a path means, `-` being standard input.

    Raises:
      FileNotFoundError, ValueError: no such file, one that is no regular file, or whose format cannot be told.
    """
    if str(path) != STANDARD_INPUT:
        yield _find(str(path), pathlib.Path(path))
        return
    with tempfile.NamedTemporaryFile(prefix="handgrad-") as copy:
        _copy(sys.stdin.buffer, copy)
        copy.flush()
        yield _recognise("standard input", pathlib.Path(copy.name), "delimited")


def _copy(stream: BinaryIO, copy: Any) -> None:
    room = os.statvfs(copy.name)
    limit = room.f_bavail * room.f_frsize * 0.9
    while piece := stream.read(_PIECE):
        copy.write(piece)
        if copy.tell() > limit:
            raise ValueError("standard input: is more than the disk has room for. Name a file.")


def _find(name: str, path: pathlib.Path) -> Source:
    ending = path.name.lower()
    packing = next((packing for packing in PACKINGS if ending.endswith(packing)), "")
    ending = ending.removesuffix(packing)
    format_ = next((format_ for end, format_ in FORMATS.items() if ending.endswith(end)), "")
    if path.is_dir():
        parts = parts_of(path)
        if format_ not in ("", "parquet") or not parts:
            raise ValueError(f"{name}: is a folder; a file is needed, or a folder of .parquet files.")
        size = sum(part.stat().st_size for part in parts if require_regular(part))
        return Source(name, path, "parquet", "", size)
    require_regular(path)
    source = Source(name, path, format_, packing, path.stat().st_size)
    if not format_:
        source = _recognise(name, path, "")
    if not source.size:
        raise ValueError(f"{name}: is empty.")
    if source.packing and source.format not in ("delimited", "idx", "svmlight"):
        raise ValueError(f"{name}: a {source.format} file is not read packed as {source.packing}. Unpack it first.")
    return source


def parts_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The .parquet files in a folder and those within it, in the order of their names; not what is hidden."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (".parquet", ".pq")
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        and not path.is_dir()
    )


def require_regular(path: pathlib.Path) -> bool:
    """Refuse what is no regular file; a link to one is one."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    except (ValueError, OSError) as error:  # a NUL in the name, a loop of links
        raise ValueError(f"{path}: cannot be opened ({error}).") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: is not a regular file, but a {_name_mode(mode)}. Pipe it in, and name it `-`.")
    return True


def _name_mode(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "FIFO"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"), (stat.S_ISSOCK, "socket"))
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "folder")


def _recognise(name: str, path: pathlib.Path, otherwise: str) -> Source:
    """The format by how the file begins."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
    packing = next((packing for magic, packing in _PACKED if head.startswith(magic)), "")
    if packing and not otherwise:
        otherwise = "delimited"
    format_ = next((format_ for magic, format_ in _MAGIC if head.startswith(magic)), otherwise)
    if format_ == "npz" and path.suffix:  # so begins what many programs write, spreadsheets among them
        format_ = otherwise
    if not format_:
        raise ValueError(
            f"{name}: the ending must be one of {', '.join(FORMATS)}, or such a one and {', '.join(PACKINGS)}."
        )
    if not size:
        raise ValueError(f"{name}: is empty.")
    return Source(name, path, format_, packing, size)


@contextlib.contextmanager
def open_source(source: Source) -> Iterator[Any]:
    """The file's bytes, unpacked."""
    with open(source.path, "rb") as file:
        if not source.packing:
            yield file
        else:
            with _unpack(source, file) as unpacked:
                yield _Counted(source, unpacked, file)


def arrow_file(source: Source, text_encoding: str) -> Any:
    """The file's text, unpacked and in UTF-8, as Arrow reads it on its own threads.

    Those must not call Python: one that still reads ahead when an error has been raised would do so as Python ends.

    Raises:
      UnicodeError: it is no text in that encoding.
    """
    import pyarrow

    is_utf8 = text_encoding.startswith("utf-8")
    if not source.packing and is_utf8:
        return pyarrow.OSFile(str(source.path))
    unpacked = bytearray()
    decoder = codecs.getincrementaldecoder(text_encoding)()
    with open_source(source) as file:
        while piece := file.read(_PIECE):
            unpacked += piece if is_utf8 else decoder.decode(piece).encode()
        unpacked += b"" if is_utf8 else decoder.decode(b"", final=True).encode()
    return pyarrow.BufferReader(pyarrow.py_buffer(unpacked))


def arrow_stream(source: Source, text_encoding: str) -> Any:
    """The file's text as Arrow unpacks and reads it in blocks.

    Raises:
      ValueError: text in another encoding than UTF-8.
    """
    import pyarrow

    if not text_encoding.startswith("utf-8"):
        raise ValueError(
            f"{source.name}: is text in {text_encoding}, and only UTF-8 is read in blocks. Convert it first."
        )
    file = pyarrow.OSFile(str(source.path))
    packing = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(source.packing)
    return pyarrow.CompressedInputStream(file, packing) if packing else file


def _unpack(source: Source, file: BinaryIO) -> Any:
    if source.packing == ".gz":
        return gzip.GzipFile(fileobj=file)
    if source.packing == ".bz2":
        return bz2.BZ2File(file)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


class _Counted(io.RawIOBase):
    """Unpacked bytes, as long as they are no more than a table may unpack to."""

    def __init__(self, source: Source, file: Any, packed: BinaryIO):
        self._source, self._file, self._packed, self._count = source, file, packed, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:  # type: ignore[override]  # never all of it
        try:
            piece = bytes(self._file.read(size))
        except Exception as error:  # damaged bytes make the decompressors raise almost anything
            raise ValueError(f"{self._source.name}: is damaged or cut short ({_line(error)}).") from None
        self._count += len(piece)
        if self._count > max(SMALL, self._packed.tell() * MOST_UNPACKED):
            raise ValueError(
                f"{self._source.name}: unpacks to more than {MOST_UNPACKED} times its size, as no table does. Unpack "
                "it yourself if you trust it."
            )
        require_memory(self._source.name, self._count)
        return piece

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def require_memory(name: str, size: int) -> None:
    """Refuse what needs more bytes than the machine has to give."""
    if size <= SMALL:
        return
    available = available_memory()
    if size > available:
        raise ValueError(
            f"{name}: would take {size / 2**30:,.1f} GB of memory, and {available / 2**30:,.1f} GB are left. Read "
            "fewer columns, or a part of the rows."
        )


def available_memory() -> int:
    """Bytes that can be taken before others have to give up theirs."""
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError), open("/proc/meminfo") as file:
        return 1024 * int(next(line for line in file if line.startswith("MemAvailable:")).split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
