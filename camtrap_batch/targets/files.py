"""Targets that are files: on disk, or in the bucket that the run folder is in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Self

from camtrap_batch.errors import InputError
from camtrap_batch.job.publish import PublishFile
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.targets.base import LayerRows, Push, Wanted


@dataclass(frozen=True)
class FileTarget:
    """A file that a job pushes its layers to.

    Attributes
    ----------
    path : path of the file; the first push creates it
    job : owner of the rows; rows of other owners in the file are not changed
    bucket : the run folder if the file is in it, at `path`, and not on disk; otherwise None
    in_run : whether the file is in the run folder, which a job creates
    """

    path: Path
    job: str
    wanted: Wanted = field(default_factory=Wanted)
    bucket: Folder | None = None
    in_run: bool = False

    section: ClassVar[type[PublishFile]]

    @classmethod
    def of(cls, run: Run, wanted: Wanted) -> Self:
        """The file that `publish.target` names.

        Raises InputError if it is in the run folder behind a symbolic link: whoever can write there could
        have any file of the user's changed.
        """
        name = Path(run.job.publish.target)
        in_run = not name.is_absolute()
        is_remote = in_run and not run.folder.is_local
        path = name if is_remote else Path(run.job.target_url)
        target = cls(path, run.job.name, wanted, run.folder if is_remote else None, in_run)
        for file in target.files() if in_run and not is_remote else ():
            if file.is_symlink():
                raise InputError(
                    f"{file}: is a symbolic link, and nothing in the run folder is written through one; give "
                    f"{run.job.publish.key}.target the path of the file itself"
                )
        return target

    def describe(self) -> str:
        """What it is, and where."""
        where = self.path if self.bucket is None else f"{self.bucket.url}/{self.path}"
        return f"{self.section.title} {where}"

    def check(self, layers: Sequence[LayerRows] = ()) -> None:
        """Raise InputError if something else is at the path, or its folder is missing; in a bucket, do
        nothing."""
        if self.bucket is not None:
            return
        if self.path.exists():
            self.require_kind()
        elif not self.in_run and not self.path.parent.is_dir():
            raise InputError(f"{self.path}: there is no folder {self.path.parent}")

    def push(self, layers: Sequence[LayerRows], *, dry_run: bool = False) -> Push:
        """Bring the layers up to date: add, update and delete rows of this job. What is missing is created.

        A file in a bucket is fetched, and put back when it has changed.

        Parameters
        ----------
        dry_run
            Only compare: the same edits, but nothing is written.

        Raises
        ------
        InputError
            The file is something else; a layer in it has fields of other types, another geometry or another
            reference system than these rows; or one of their keys belongs to a row of another job. Nothing
            was changed.
        StageError
            More of a layer would be deleted than is allowed. Nothing was changed.
        StorageError
            The file is locked or can't be written, or what was written reads back differently. Nothing was
            changed.
        """
        if self.bucket is None:
            self.check(layers)
            return self.push_file(layers, dry_run=dry_run)
        with TemporaryDirectory(prefix="camtrap-") as scratch:
            local = replace(self, path=Path(scratch) / self.path.name, bucket=None, in_run=False)
            pairs = list(zip(map(str, self.files()), local.files(), strict=True))
            before = {name: self.bucket.read(name) for name, _ in pairs if self.bucket.exists(name)}
            for name, file in pairs:
                if name in before:
                    file.write_bytes(before[name])
            push = local.push(layers, dry_run=dry_run)
            for name, file in pairs if not dry_run else []:
                if file.exists() and (after := file.read_bytes()) != before.get(name):
                    self.bucket.write(name, after)
            return push

    def files(self) -> list[Path]:
        """All files of the target."""
        return [self.path]

    def identities(self) -> dict[str, str]:
        """See `HasIdentity.identities`: a file behind a link, or with two names, is one."""
        if self.bucket is not None:
            return {f"{self.bucket.url}/{file}": f"{self.bucket.url}/{file}" for file in self.files()}
        return {_identity(file): str(file) for file in self.files()}

    def faults(self) -> dict[Path, str]:
        """What is wrong with the existing files on disk, as far as can be seen: path -> fault."""
        return {}

    @abstractmethod
    def require_kind(self) -> None:
        """Raise InputError if what is at the path is not such a file."""

    @abstractmethod
    def push_file(self, layers: Sequence[LayerRows], *, dry_run: bool) -> Push:
        """`push`, for a file on disk."""


def _identity(file: Path) -> str:
    try:
        about = file.stat()
    except FileNotFoundError:
        return str(file.resolve())
    return f"{about.st_dev}:{about.st_ino}"
