# make rehearse   the whole migration on a virtual Raspberry Pi (README's first command); KEY=tpm2
#                 for one with a TPM in place of the HSM6
# make test       lint, types, unit tests, real dm-crypt, whole migrations (the second)
# make bench      crfs and its peers on the same slow devices; about three hours
# make cuts       hundreds of power cuts and other faults, counted in build/cuts/report.json
# make deb        the Debian package, build/crfs_VERSION_all.deb

PYTHON = .venv/bin/python
BOARD = q35
KEY = hsm6
CUTS =

.PHONY: rehearse test unit bench cuts deb setup clean

rehearse: setup deb
	$(PYTHON) -m crfs rehearse --board $(BOARD) --key $(KEY)

test: setup deb
	/usr/bin/python3 -m pytest tests -m "not integration and not pi" --ignore tests/test_linters.py
	# One file after another on each of two processors; emulators keep to the quieter one.
	$(PYTHON) -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

# The quick part of the tests, for every change.
unit: setup
	$(PYTHON) -m pytest tests -m "not integration and not pi"

# What was measured before with the same package is not measured again.
bench: setup deb
	$(PYTHON) -m benchmarks $(BENCH)

# A day's work for two processors; it goes on where it was stopped. CUTS='--count 60 --jobs 4' ...
cuts: setup
	$(PYTHON) -m crfs.rehearsal.cuts --document $(CUTS)

deb: setup
	tools/build-deb

setup:
	tools/setup

clean:
	rm -rf build .venv
