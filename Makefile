# make                  the extension; needs only the server's development files
# make install          into the server of PG_CONFIG (default: pg_config)
# make installcheck     its tests, against a running server into which it was installed
# make demo             the order intake, on a private server under build/ (SEED=… repeats a run)
# make psql             psql on the demo's database
# make service          the order service with all around it, on loopback (sdk/examples/order_service)
# make service-demo     a week of orders through it, while its processes are killed (SEED=…)
# make service-load     its load test (ARGS='--rate 5000 --seconds 60 --kill', …)
# make check            every test suite, on private servers under build/; the briefest of them on PostgreSQL 17 and 18
#                       too, where scripts/matrix make has made Debians with those under build/
# make check-matrix     makes them, and runs every suite there as well (as root)
# make torture          everything that can fail, for minutes or hours (MINUTES=… HOURS=… SEED=…)
# make check-sanitize   the suites under ASan, UBSan, TSan and valgrind and in a server with assertions (scripts/sanitize)
# make fuzz             random input for everything that reads input (MINUTES=60, SEED=…), in a server with assertions
# make bench            the benchmarks, beside what is written by hand and beside peers: two hours
# make bench-full       those that take an afternoon: 100 million keys, growth, an hour under load
# make sdk              the C++ SDK, the demo and their tests, into build/sdk
# make setup            the packages that all of these need (Debian, through apt)

all install uninstall installdirs installcheck:
	@$(MAKE) --no-print-directory -C extension $@

clean distclean maintainer-clean:
	@[ ! -d build/server ] || scripts/server destroy
	-@$(MAKE) --no-print-directory -C extension $@
	rm -rf build

setup:
	@scripts/setup demo check bench matrix sanitize

check:
	@scripts/check

check-matrix:
	@scripts/matrix

check-sanitize:
	@for mode in asan cassert valgrind sdk-asan sdk-tsan; do scripts/sanitize $$mode || exit; done

fuzz:
	@FUZZ_SECONDS=$$(($(or $(MINUTES),60) * 60)) FUZZ_SEED=$(SEED) scripts/sanitize cassert fuzz sqlsmith

demo:
	@demo/run $(if $(SEED),--seed $(SEED))

psql:
	@demo/run psql

service:
	@sdk/examples/order_service/run

service-demo:
	@sdk/examples/order_service/run demo $(if $(SEED),--seed $(SEED))

service-load:
	@sdk/examples/order_service/run load $(ARGS)

sdk:
	@scripts/sdk

bench:
	@bench/run

bench-full:
	@bench/run full

torture:
	@test/fault/torture

.PHONY: all install uninstall installdirs installcheck clean distclean maintainer-clean \
	setup check check-matrix check-sanitize fuzz torture demo psql service service-demo service-load sdk bench bench-full
