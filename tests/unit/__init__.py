"""Unit tests, one file for each module: no device, no root disk, no real command."""
