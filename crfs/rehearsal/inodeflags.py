"""Inode flags (`chattr`): the ioctls that read and set them, and those that a copy must keep."""

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602

SYNC = 0x8
IMMUTABLE = 0x10
APPEND = 0x20
NODUMP = 0x40
NOATIME = 0x80

# The others (extents, inline data, index) say how ext4 keeps the file, not what the user set.
USER_FLAGS = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME
