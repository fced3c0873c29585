"""Which file system a folder lies on, and whether several machines may see it.

Promises: a folder on a file system of a known network or FUSE type is recognised on Linux, also before it exists.
Does not promise: to recognise a local disk that is exported to others, a cluster file system on a shared block device
other than those listed, or anything where ``/proc/self/mountinfo`` does not exist (macOS): such folders count as local.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
SHARED_TYPES = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "cvfs", "davfs", "exfs", "fhgfs",
        "fuse", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "nfsd", "ocfs2",
        "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
    }
)  # fmt: skip
FUSE_LOCAL = "fuse.fuse-overlayfs"  # the root of a rootless container; fuseblk is a local disk as well
ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo."""

    point: Path
    type: str
    source: str

    @property
    def shared(self) -> bool:
        """Whether other machines may see the same files, or locks may hold on one machine only."""
        if self.type == FUSE_LOCAL:
            return False
        return self.type in SHARED_TYPES or self.type.startswith("fuse.")


def read_mounts(text: str) -> list[Mount]:
    """Return the mounts that the text of ``mountinfo`` lists; lines of another form are left out."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if separator and len(left) >= 6 and len(right) >= 2:
            mounts.append(Mount(point=Path(_plain(left[4])), type=right[0], source=_plain(right[1])))
    return mounts


def mount_of(folder: Path, mounts: list[Mount]) -> Mount | None:
    """Return the mount that an absolute path without links lies on: the deepest, and of these the last."""
    found = None
    for mount in mounts:
        if folder.is_relative_to(mount.point) and (found is None or len(mount.point.parts) >= len(found.point.parts)):
            found = mount
    return found


def shared_mount(folder: Path) -> Mount | None:
    """Return the mount of a folder if it is of a type that several machines may share, else None."""
    try:
        text = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    mount = mount_of(folder.resolve(), read_mounts(text))
    return mount if mount is not None and mount.shared else None


def _plain(name: str) -> str:
    """Undo the octal escapes of spaces, tabs, line ends and backslashes."""
    return ESCAPE.sub(lambda found: chr(int(found[1], 8)), name)
