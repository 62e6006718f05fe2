# turn_liveness
#
# "make && sudo make install" builds and installs it for the server that
# PG_CONFIG names. The commands below need nothing of PostgreSQL beforehand: see
# "make help".

EXTENSION = turn_liveness
MODULE_big = turn_liveness
PGFILEDESC = "turn_liveness - exactly one terminal reply for every turn"

# The one place that holds the version is the control file.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

OBJS = $(WIN32RES) $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA = $(wildcard sql/install/$(EXTENSION)*.sql)

# PGXN wants three numbers; checkver holds the two together.
DISTVERSION = $(shell sed -n 's/^   "version": "\(.*\)",/\1/p' META.json)

# 00_setup makes what the others use.
REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))

ISOLATION = $(sort $(patsubst test/isolation/specs/%.spec,%,$(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=turn_liveness

TAP_TESTS = 1
PROVE_TESTS ?= test/tap/*.pl

# Our own builds add WERROR=-Werror; another compiler's new warning must not
# keep a user from building.
WERROR =
PG_CPPFLAGS = -Isrc
# a name of ours that one of our files uses needs no table of symbols
SHLIB_LINK = -Wl,-Bsymbolic
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare $(WERROR)

EXTRA_CLEAN = output_iso $(EXTENSION)-*.zip $(wildcard postgresql-*-turn-liveness*.deb)

# --- Targets that work without PGXS

.DEFAULT_GOAL := all
# What test/harness/run does, on throw-away servers.
COMMANDS = demo demo-cluster test bench monitoring model chaos hostile mutants sanitize failover deb images
.PHONY: help $(COMMANDS) checkver dist

help:
	@echo 'make demo       show it: a server, two gateways, workers that die; then clean up'
	@echo 'make demo-cluster  the same over three servers behind PL/Proxy, one of which is killed'
	@echo 'make test       run every test suite on throw-away servers'
	@echo '                SUITE="regress tap"  only these of: checkver regress isolation pgtap'
	@echo '                                     tap clients gateway model chaos hostile demo,'
	@echo '                                     and demo-cluster when it is named'
	@echo '                TESTS="FILE..."      only these test files'
	@echo '                PROVE_FLAGS=-v       for the TAP suite; KEEP=1 keeps the files'
	@echo 'make bench      measure it (ARGS=... for the script)'
	@echo 'make monitoring watch a server with Prometheus: alerts that fire, the dashboard'
	@echo '                drawn (about 5 minutes)'
	@echo
	@echo 'make model      check the protocol and its known bugs with spin (a few minutes)'
	@echo '                ARGS="story BUG"     show how one of the bugs of test/model breaks it'
	@echo 'make chaos      kill, stop and cut off all processes under load, and judge what is left'
	@echo '                ARGS="SECONDS SEED"  default: 300 and a new one'
	@echo 'make hostile    call every function as no user does (ARGS="SECONDS [SEED]"); by'
	@echo '                sqlsmith (ARGS="sqlsmith SECONDS"), or libFuzzer on the JSON of'
	@echo '                replies (ARGS="merge SECONDS")'
	@echo 'make mutants    break the code in many places, one after the other: tests catch it'
	@echo '                (about ten minutes; ARGS="NAME..." only these of test/mutants)'
	@echo 'make sanitize   run the suites under sanitizers and valgrind, and the analyzers'
	@echo '                (ARGS="asan", "valgrind", "analyze": only one of them)'
	@echo 'make failover   kill the primary of a cluster under load, with Patroni (ten minutes)'
	@echo '                ARGS=synchronous, or asynchronous: only that kind of replication'
	@echo
	@echo 'make deb        build the Debian packages'
	@echo '                ARGS=check           and install, upgrade and purge them in a clean root'
	@echo 'make images     build the container images on a clean root, and run them'
	@echo '  These install missing Debian packages when they may, and name them'
	@echo '  when they may not. PG_CONFIG=/path/to/pg_config chooses another server.'
	@echo
	@echo 'make            build'
	@echo 'make install    install into the server of PG_CONFIG'
	@echo 'make installcheck  SQL, isolation and TAP tests against that installation'
	@echo 'make checkver   compare the places that hold the version; rules of the sources'
	@echo 'make dist       make the archive for PGXN'

# Told to the harness only where the user chose: it looks for its own otherwise.
CHOSEN_PG_CONFIG := $(PG_CONFIG)

$(COMMANDS):
	@exec env TL_PG_CONFIG='$(CHOSEN_PG_CONFIG)' SUITE='$(SUITE)' TESTS='$(TESTS)' ARGS='$(ARGS)' \
		KEEP='$(KEEP)' PROVE_FLAGS='$(PROVE_FLAGS)' bash test/harness/run $@

checkver:
	@perl test/harness/checkver.pl

dist: checkver
	git archive --format=zip --prefix=$(EXTENSION)-$(DISTVERSION)/ \
		--output=$(EXTENSION)-$(DISTVERSION).zip HEAD
	@perl test/harness/pgxn.pl $(EXTENSION)-$(DISTVERSION).zip

print-%:
	@echo '$($*)'

# --- PGXS

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(wildcard $(PGXS)),)

# A server built with LLVM wants bitcode too; do without where its clang is
# not on this machine.
PGXS_CLANG := $(shell sed -n 's/^CLANG *= *//p' $(dir $(PGXS))../Makefile.global)
ifeq ($(shell command -v $(firstword $(PGXS_CLANG) none)),)
override with_llvm = no
endif

include $(PGXS)

# PGXS tracks no dependencies on headers where the server was built without.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*/*.h)

else

all install installcheck uninstall clean:
	@echo 'There is no PGXS at "$(PG_CONFIG)": install the development files of your' >&2
	@echo 'server (Debian: postgresql-server-dev-15), or set PG_CONFIG.' >&2
	@exit 1
.PHONY: all install installcheck uninstall clean

endif
