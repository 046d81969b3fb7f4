# make                  the extension; needs only the server's development files
# make install          into the server of PG_CONFIG (default: pg_config)
# make installcheck     its tests, against a running server into which it was installed
# make demo             the order intake, on a private server under build/ (SEED=… repeats a run)
# make psql             psql on the demo's database
# make check            every test suite, on private servers under build/
# make check-sanitize   the suites under ASan and UBSan and in a server with assertions (scripts/sanitize)
# make fuzz             random input for everything that reads input (MINUTES=60, SEED=…), in a server with assertions
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

check-sanitize:
	@for mode in asan cassert; do scripts/sanitize $$mode || exit; done

fuzz:
	@FUZZ_SECONDS=$$(($(or $(MINUTES),60) * 60)) $(if $(SEED),FUZZ_SEED=$(SEED)) scripts/sanitize cassert fuzz

demo:
	@demo/run $(if $(SEED),--seed $(SEED))

psql:
	@demo/run psql

sdk:
	@scripts/sdk

bench:
	@bench/run

.PHONY: all install uninstall installdirs installcheck clean distclean maintainer-clean \
	setup check check-sanitize fuzz demo psql sdk bench
