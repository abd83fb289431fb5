"""What libtiff says about a picture while Pillow decodes it: collected here instead of printed.

libtiff reports faults that do not stop a decode to a handler of the process, which prints them; Pillow does
not see them. The handler here replaces that one and keeps what is said for the decoding thread: redirecting
standard error instead would swallow the output of all other threads. (Warnings, which Pillow switches off
before each decode, are not available.)
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import PIL

_LONGEST = 512  # bytes of a message
_MOST = 100  # messages kept for one picture
_LOADED = re.compile(r"\s(/.*/libtiff[^/\n]*\.so[^/\n]*)$", re.MULTILINE)

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_heard = threading.local()


@contextmanager
def hear_libtiff() -> Iterator[list[str]]:
    """Collects what libtiff says on this thread until the block ends."""
    _install()
    before = getattr(_heard, "said", None)
    said: list[str] = []
    _heard.said = said
    try:
        yield said
    finally:
        _heard.said = before


@cache
def _install() -> bool:
    """Whether the handler is installed: it can't be if Pillow's libtiff is not a separate library."""
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
            set_handler = library.TIFFSetErrorHandler
        except (OSError, AttributeError):
            continue
        set_handler.argtypes, set_handler.restype = [_Handler], ctypes.c_void_p
        set_handler(_keep)
        return True
    return False


def _libraries() -> list[str]:
    """Paths of the libtiff that this process has loaded with Pillow."""
    try:
        return sorted(set(_LOADED.findall(Path("/proc/self/maps").read_text())))
    except OSError:  # not Linux: look where Pillow's wheels keep it
        beside = Path(PIL.__file__).parent
        folders = (beside / ".dylibs", beside.parent / "pillow.libs")
        return sorted(str(path) for folder in folders for path in folder.glob("libtiff*"))


def _format(template: bytes, arguments: int | None) -> str:
    text = ctypes.create_string_buffer(_LONGEST)
    _vsnprintf(text, _LONGEST, template, arguments)
    return text.value.decode("utf-8", "replace")


_vsnprintf = ctypes.CDLL(None).vsnprintf
_vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]


@_Handler  # type: ignore[untyped-decorator]
def _keep(module: bytes | None, template: bytes, arguments: int | None) -> None:
    said = getattr(_heard, "said", None)
    if said is not None and len(said) < _MOST:
        said.append(f"{(module or b'libtiff').decode('utf-8', 'replace')}: {_format(template, arguments)}")
