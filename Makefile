# make                  the extension; needs only the server's development files
# make install          into the server of PG_CONFIG (default: pg_config)
# make installcheck     its tests, against a running server into which it was installed
# make demo             the order intake, on a private server under build/ (SEED=… repeats a run)
# make psql             psql on the demo's database
# make check            every test suite, on private servers under build/
# make torture          everything that can fail, for minutes or hours (MINUTES=… HOURS=… SEED=…)
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
	@scripts/setup demo check bench

check:
	@scripts/check

demo:
	@demo/run $(if $(SEED),--seed $(SEED))

psql:
	@demo/run psql

sdk:
	@scripts/sdk

bench:
	@bench/run

torture:
	@test/fault/torture

.PHONY: all install uninstall installdirs installcheck clean distclean maintainer-clean \
	setup check demo psql sdk bench torture
