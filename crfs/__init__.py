"""crfs encrypts the root filesystem of a running Raspberry Pi and binds its key to an HSM6."""

__version__ = "0.1.0"
