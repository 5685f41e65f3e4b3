"""Power cuts and other faults by the hundred, on a cheap Pi: how crfs keeps its promise is counted.

The cheap Pi is user-mode Linux with crfs's real worker, real disks, dm-crypt, ext4 and FAT, the
firmware's real choice, crfs's real initramfs scripts and the simulated HSM6; but without systemd
and with a root of a few megabytes. `docs/reliability.md` tells what it shows and what not.
"""
