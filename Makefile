# make rehearse   the whole migration on a virtual Raspberry Pi (README's first command)
# make test       lint, types, unit tests, real dm-crypt, whole migrations (the second)
# make bench      crfs and its peers on the same slow devices; about an hour
# make deb        the Debian package, build/crfs_VERSION_all.deb

PYTHON = .venv/bin/python
BOARD = q35

.PHONY: rehearse test unit bench deb setup clean

rehearse: setup deb
	$(PYTHON) -m crfs rehearse --board $(BOARD)

test: setup deb
	/usr/bin/python3 -m pytest tests -m "not integration and not pi" --ignore tests/test_linters.py
	$(PYTHON) -m pytest tests

# The quick part of the tests, for every change.
unit: setup
	$(PYTHON) -m pytest tests -m "not integration and not pi"

# What was measured before with the same package is not measured again.
bench: setup deb
	$(PYTHON) -m benchmarks $(BENCH)

deb: setup
	tools/build-deb

setup:
	tools/setup

clean:
	rm -rf build .venv
