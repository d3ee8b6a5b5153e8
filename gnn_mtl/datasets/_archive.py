"""``extract_zip``: unpack an archive that may be hostile, into a folder that appears whole."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from gnn_mtl._core.errors import FileFormatError, StorageError, UsageError
from gnn_mtl.datasets._data_dir import scratch_folder

BLOCK = 1 << 20
MOST_MEMBERS = 10_000
HIGHEST_RATIO = 100


def extract_zip(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, max_bytes: int
) -> None:
    """Unpack the one folder inside a zip as ``folder``, whole or not at all.

    Every member is checked before anything is written: plain relative names below one common
    folder, no links, nothing encrypted, no name twice, sizes within the limits. What comes out is
    counted against what was declared.

    Args:
        archive: The zip.
        folder: New folder; what the archive calls its top folder does not matter.
        max_bytes: Refuse more than this unpacked.

    Raises:
        UsageError: If ``folder`` exists.
        FileFormatError: If the archive is damaged or fails a check.
        StorageError: If there is no room.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise UsageError(f"Expected a new folder to unpack to. {folder} exists; move it away.")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened, archive, max_bytes)
            total, free = sum(info.file_size for _, info in members), _free(folder)
            if total > free:
                raise StorageError(
                    f"Unpacking {archive} needs {total / 1e9:.2f} GB. Found {free / 1e9:.2f} GB "
                    "free. Free space or choose another place."
                )
            with scratch_folder(folder) as scratch:
                inner = scratch / "content"
                inner.mkdir()
                for name, info in members:
                    _write(opened, info, inner / name)
                inner.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, FileFormatError | StorageError):
            raise
        raise FileFormatError(
            f"{archive} should be a whole zip archive. Found: {error}. Remove it and fetch it "
            "again."
        ) from error


def _checked(
    opened: zipfile.ZipFile, archive: Path, max_bytes: int
) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """Return the files with their names below the top folder."""
    infos = opened.infolist()
    found: dict[str, tuple[PurePosixPath, zipfile.ZipInfo]] = {}
    tops = set()
    for info in infos[: MOST_MEMBERS + 1]:
        if reason := _fault(info):
            raise FileFormatError(
                f"{archive} should hold plain files below one folder. Found {info.filename!r}, "
                f"{reason}. Do not use this archive."
            )
        top, *rest = PurePosixPath(info.filename).parts
        tops.add(top)
        if info.is_dir():
            continue
        name = PurePosixPath(*rest)
        if not rest or str(name).casefold() in found:
            raise FileFormatError(
                f"{archive} should hold plain files below one folder, each once. Found "
                f"{info.filename!r}. Do not use this archive."
            )
        found[str(name).casefold()] = (name, info)
    total = sum(info.file_size for info in infos)
    packed = sum(info.compress_size for info in infos)
    if len(infos) > MOST_MEMBERS or len(tops) != 1 or not found:
        raise FileFormatError(
            f"{archive} should hold one folder of at most {MOST_MEMBERS} files. Found "
            f"{len(infos)} members in {len(tops)} folders."
        )
    if total > max_bytes or total > HIGHEST_RATIO * max(packed, BLOCK):
        raise FileFormatError(
            f"{archive} should unpack to at most {max_bytes / 1e9:.2f} GB, and {HIGHEST_RATIO} "
            f"times its own size. Found {total / 1e9:.2f} GB out of {packed / 1e9:.4f} GB. "
            "Do not use this archive."
        )
    return list(found.values())


def _fault(info: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with a member, or None."""
    path = PurePosixPath(info.filename)
    # zipfile cuts a name at a NUL and turns the separator of other systems round.
    if path.is_absolute() or ".." in path.parts or set(info.orig_filename) & set("\\\0:"):
        return "which leads elsewhere"
    if not path.parts:
        return "which has no name"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "which is a link or a device"
    if info.flag_bits & 0x1:
        return "which is encrypted"
    return None


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(info) as source, path.open("xb") as file:
        while block := source.read(BLOCK):
            written += len(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is not as long as declared")


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
