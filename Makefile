# make rehearse   the whole migration on a virtual Raspberry Pi (README's first command)
# make test       lint, types, unit tests, real dm-crypt, whole migrations (the second)
# make deb        the Debian package, build/crfs_VERSION_all.deb

PYTHON = .venv/bin/python
BOARD = q35

.PHONY: rehearse test unit deb setup clean

rehearse: setup deb
	$(PYTHON) -m crfs rehearse --board $(BOARD)

test: setup deb
	/usr/bin/python3 -m pytest tests -m "not integration and not pi" --ignore tests/test_linters.py
	$(PYTHON) -m pytest tests

# The quick part of the tests, for every change.
unit: setup
	$(PYTHON) -m pytest tests -m "not integration and not pi"

deb: setup
	tools/build-deb

setup:
	tools/setup

clean:
	rm -rf build .venv
