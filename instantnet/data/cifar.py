"""What is wrong with the files of CIFAR-10 or CIFAR-100 in a folder, before anything is downloaded or unpacked."""

import hashlib
from pathlib import Path

from instantnet.engine.errors import UserError, as_many_as_fit

ROOM = 98  # letters of what is said of single files
REMEDY = "delete it and start again to download it, or unpack"


def missing_cifar(dataset: str, path: Path) -> None:
    """Called where the files in `path` are not whole: returns where a download, or an archive there, can mend that.

    Raises UserError where the inner folder is named, the archive or a file is damaged, or files are missing.
    """
    from torchvision.datasets import cifar

    source = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[dataset]
    files = dict([*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]])
    archive, folder = path / source.filename, path / source.base_folder
    if any((path / name).is_file() for name in files) or path.name == source.base_folder:
        raise UserError(
            f"setting dataset_path = {str(path)!r}: this is the folder of the {dataset} files themselves; name the one "
            f"that {source.base_folder}/ lies in"
        )
    if archive.exists():
        if found := _difference(archive, source.tgz_md5):
            raise UserError(f"{archive} is damaged or incomplete: {found}; {REMEDY} a whole one from {source.url}")
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, where the folder of the {dataset} files is expected: remove it")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    wrong = {name: found for name, md5 in files.items() if (found := _difference(folder / name, md5))}
    if wrong:
        listed = _listed(wrong)
        raise UserError(
            f"{folder}: {len(files) - len(wrong)} of {len(files)} files of {dataset} are right, not {listed}; delete "
            "the folder and start again to download it"
        )


def _listed(wrong: dict[str, str]) -> str:
    """What differs, file by file as far as there is room, the missing ones first."""
    ordered = sorted(wrong, key=lambda name: (wrong[name] != "missing", name))
    files = [f"{name}: {wrong[name]}" for name in ordered]
    count = max(1, as_many_as_fit(files, ROOM))
    others = [f"and {len(files) - count} others"] if count < len(files) else []
    return "; ".join([*files[:count], *others])


def _difference(path: Path, md5: str) -> str:
    """What differs from the file whose MD5 sum this is; "" where nothing does."""
    if not path.exists():
        return "missing"
    if not path.is_file():
        return "not a regular file"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if found == md5 else f"{path.stat().st_size:,} bytes with MD5 {found[:8]}.., not {md5[:8]}.."
