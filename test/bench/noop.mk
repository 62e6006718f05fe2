# The no-op, built with PGXS where run.sh has copied it.
MODULES = noop
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
