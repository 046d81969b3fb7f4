# make                  the extension; needs only the server's development files
# make install          into the server of PG_CONFIG (default: pg_config)
# make installcheck     its tests, against a running server into which it was installed
# make demo             the order intake, on a private server under build/ (SEED=… repeats a run)
# make psql             psql on the demo's database
# make check            every test suite, on private servers under build/
# make check-matrix     the same, and again on PostgreSQL 17 and 18, in Debians of their own under build/ (as root)
# make bench            the benchmarks
# make sdk              the C++ SDK, the demo and their tests, into build/sdk
# make setup            the packages that all of these need (Debian, through apt)

all install uninstall installdirs installcheck:
	@$(MAKE) --no-print-directory -C extension $@

clean distclean maintainer-clean:
	@[ ! -d build/server ] || scripts/server destroy
	-@$(MAKE) --no-print-directory -C extension $@
	rm -rf build

setup:
	@scripts/setup demo check bench matrix

check:
	@scripts/check

check-matrix:
	@scripts/matrix

demo:
	@demo/run $(if $(SEED),--seed $(SEED))

psql:
	@demo/run psql

sdk:
	@scripts/sdk

bench:
	@bench/run

.PHONY: all install uninstall installdirs installcheck clean distclean maintainer-clean \
	setup check check-matrix demo psql sdk bench
