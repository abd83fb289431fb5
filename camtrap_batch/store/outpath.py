"""Where a command may write what a user asked for with `--out`, and how that gets its name once it is
complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from camtrap_batch.errors import StorageError, UserError, choices
from camtrap_batch.job import Job

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_file(out: str, job: Job, endings: Collection[str]) -> Path:
    """The path of a file that may be written or replaced.

    Parameters
    ----------
    endings : such as .csv, lower case; the file must have one of them

    Raises
    ------
    UserError
        It is a URL or a folder, lies in a missing folder or in the job's input, or has another ending.
    """
    path = check_path(out, job)
    ending = path.suffix.lower()
    if ending not in endings:
        if len(endings) == 1:
            raise UserError(f"--out {out}: should end in {next(iter(endings))}")
        raise UserError(f"--out {out}: can't write {ending or 'this'}; {choices(ending, endings)}")
    if path.exists() and not path.is_file():
        raise UserError(f"--out {out}: is a folder; it should be a file")
    return path


def check_folder(out: str, job: Job, is_ours: Callable[[Path], bool], *, instead: str = "") -> Path:
    """The path of a folder that may be written: there is nothing yet, an empty folder, or an earlier export.

    Parameters
    ----------
    instead : what else `--out` may be, for the message about a file, such as `, or end in .zip`

    Raises
    ------
    UserError
        As for `check_file`; or it holds something that no export made.
    """
    path = check_path(out, job)
    if path.is_symlink():
        raise UserError(f"--out {out}: is a symbolic link; it should be a folder, or a new name")
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {out}: is a file; it should be a folder{instead}")
    if path.is_dir() and any(path.iterdir()) and not is_ours(path):
        raise UserError(
            f"--out {out}: is a folder that holds more than an earlier export, and is left as it is; it "
            "should be a new or an empty one"
        )
    return path


def check_path(out: str, job: Job) -> Path:
    """An absolute path on this machine, outside the job's input, in an existing folder that can be written.

    Raises UserError if it is anything else.
    """
    if "://" in out:
        raise UserError(f"--out {out}: should be a path on this machine")
    if (used := job.input_at(out)) is not None:
        raise UserError(f"--out {out}: is, or is inside, {used}, which a job never changes")
    path = Path(os.path.abspath(out))  # noqa: PTH100 - keeps the user's symbolic links
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        if problem.errno in _FULL:
            raise
        raise UserError(f"--out {out}: nothing can be written in {path.parent}: {problem.strerror}") from None
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, for a file or a folder; when the block ends, it takes the place of `path`.

    If the block fails, what was there stays. Raises StorageError if there is no space for it.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    before = path.with_name(f"{staged.name}.before")
    try:
        yield staged
        if path.is_dir():
            # A folder can't be renamed onto one that is not empty.
            path.rename(before)
            try:
                staged.rename(path)
            except BaseException:
                before.rename(path)
                raise
        else:
            staged.replace(path)
    except OSError as problem:
        if problem.errno in _FULL:
            text = f"--out {path}: {os.strerror(problem.errno)}; what was there stays"
            raise StorageError(text) from problem
        raise
    finally:
        for left in (staged, before):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
