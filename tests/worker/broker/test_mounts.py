"""The embedded broker recognises file systems that several machines may share, and refuses them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.broker.embedded import BrokerError, start_broker
from worker.broker.mounts import mount_of, read_mounts, shared_mount

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
30 27 0:40 / /home rw,relatime shared:20 master:3 - nfs4 files.example:/export/home rw,vers=4.2,addr=192.0.2.7
31 27 0:41 / /mnt/old rw - nfs files.example:/old rw,vers=3
32 27 0:42 / /mnt/a\040b rw - cifs //files.example/a\040b rw,vers=3.1.1
33 27 0:43 / /mnt/remote rw,nosuid - fuse.sshfs user@files.example:/ rw,user_id=0
34 27 0:44 / /scratch rw - lustre 192.0.2.9@tcp:/scratch rw,flock
35 27 0:45 / /gpfs rw - gpfs gpfs0 rw
36 27 0:46 / /ceph rw - ceph 192.0.2.3:6789:/ rw
37 27 0:47 / /beegfs rw - beegfs beegfs_nodev rw
38 27 0:48 / /host rw - 9p share rw,trans=virtio
39 27 8:17 / /mnt/ntfs rw - fuseblk /dev/sdb1 rw
40 30 254:1 / /home/local rw - xfs /dev/vdb rw
41 27 0:49 / /layers rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
42 27 0:50 / /rootless rw - fuse.fuse-overlayfs fuse-overlayfs rw
43 27 0:51 / /tmp rw - tmpfs tmpfs rw
44 27 0:52 /@data /pool rw - btrfs /dev/vdc rw
45 27 0:53 / /twice rw - ext4 /dev/vdd rw
46 45 0:54 / /twice rw - smb3 //files.example/twice rw
47 27 0:55 / /gluster rw - fuse.glusterfs files.example:/volume rw
not a line of this format
"""


@pytest.mark.parametrize(
    ("folder", "kind", "shared"),
    [
        ("/var/lib/cytosynth", "ext4", False),
        ("/home/me/var", "nfs4", True),
        ("/homeless/var", "ext4", False),  # not below /home
        ("/mnt/old/x", "nfs", True),
        ("/mnt/a b/var", "cifs", True),
        ("/mnt/remote", "fuse.sshfs", True),
        ("/scratch/me", "lustre", True),
        ("/gpfs/me", "gpfs", True),
        ("/ceph/me", "ceph", True),
        ("/beegfs/me", "beegfs", True),
        ("/host/me", "9p", True),
        ("/mnt/ntfs/me", "fuseblk", False),
        ("/gluster/me", "fuse.glusterfs", True),
        ("/home/local/var", "xfs", False),  # a local disk below a network folder
        ("/layers/var", "overlay", False),
        ("/rootless/var", "fuse.fuse-overlayfs", False),
        ("/tmp/var", "tmpfs", False),
        ("/pool/var", "btrfs", False),
        ("/twice/var", "smb3", True),  # the later mount hides the earlier
    ],
)
def test_type_of_the_file_system_decides(folder: str, kind: str, shared: bool) -> None:
    mount = mount_of(Path(folder), read_mounts(TABLE))
    assert mount is not None
    assert (mount.type, mount.shared) == (kind, shared)


@pytest.fixture
def fuse_folder(tmp_path: Path) -> Iterator[Path]:
    """A FUSE mount of the kernel's, whose server has gone: the kernel lists it all the same."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting takes Linux and root")
    folder, libc = tmp_path / "shared", ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"test", os.fsencode(folder), b"fuse.test", 0, options) != 0:
            pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(device)
    yield folder
    libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH


def test_embedded_broker_refuses_a_fuse_mount_and_says_what_to_set(fuse_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(fuse_folder)
    for folder in (fuse_folder / "var" / "broker", link / "broker"):
        with pytest.raises(BrokerError, match=r"fuse\.test.*CYTOSYNTH_REDIS_URL.*CYTOSYNTH_DATA_DIR"):
            start_broker(folder)
    assert shared_mount(tmp_path) is None
