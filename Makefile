# Two commands do everything on a machine with Python 3.11, 3.12 or 3.13: `make demo` and `make test`.
# Another Python: `make PYTHON=python3.12 demo`. Arguments: `make demo ARGS=--fast`, `make test ARGS='-k join -x'`.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements.bootstrap.lock requirements.lock
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# Each process has a broker of its own. CI must not pass on a lesser one than Apache Kafka itself.
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(if $(CI),--require-kafka)

.PHONY: demo test lint check simulate chaos chaos-short mutants fuzz bench soak lock clean

demo: $(READY)
	$(BIN)/demur demo $(ARGS)

test: lint
	$(PYTEST) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# What deploys, and what others generate code from, against their schemas; the last two need npm.
check: $(READY)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	if command -v npx >/dev/null; then npx --yes dclint@3.1.0 --max-warnings 0 docker-compose.yml; fi
	if command -v npm >/dev/null; then set -e; at=$$(mktemp -d); npm pack --silent --pack-destination $$at @asyncapi/specs@6.11.1; \
	tar -xzf $$at/*.tgz -C $$at; $(BIN)/check-jsonschema --schemafile $$at/package/schemas/3.0.0.json docs/asyncapi.json; fi

# A hundred thousand schedules of duplicates, disorder and crashes; `make test` runs two thousand.
simulate: $(READY)
	$(BIN)/pytest -m slow

# Kills, stops, pauses, storms, a broker that dies, a network that breaks, a full disk; the short form is part of CI.
chaos: $(READY)
	$(BIN)/python -m tests.chaos --json chaos.json $(ARGS)

chaos-short: $(READY)
	$(BIN)/python -m tests.chaos --runs 1 --responses 120 --faults kill_worker,pause_worker,rebalance_storm $(ARGS)

# Each safeguard removed in turn, and the test that catches it.
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(ARGS)

# A million hostile inputs from seeds; then some guided by coverage, where atheris (not in the lock) can be installed.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(ARGS)
	if $(BIN)/uv pip install --quiet --python $(BIN)/python --group fuzz; then $(BIN)/python -m tests.fuzz.guided; fi

# Never part of the tests; each writes its rows beside its page. The stream's peers get an environment of their own.
bench: $(READY)
	set -e; for name in encoder latency stream; do $(BIN)/python -m benchmarks.$$name --json benchmarks/$$name/results.json; done

# Half an hour at a steady load on Apache Kafka: memory, lag, oracle. `make soak ARGS='--minutes 2'` is a smoke test.
soak: $(READY)
	$(BIN)/python -m benchmarks.soak --minutes 30 --load .8 --json soak.json $(ARGS)

# Keeps what is pinned and admits what pyproject.toml asks for anew; add `ARGS=--upgrade` to renew everything.
lock: $(READY)
	$(COMPILE) $(ARGS) --group dev pyproject.toml --output-file requirements.lock
	$(COMPILE) $(ARGS) benchmarks/stream/requirements.in --output-file benchmarks/stream/requirements.txt
	echo uv | $(COMPILE) $(ARGS) - --output-file requirements.bootstrap.lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache demur-out *.egg-info
	find models streams tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# pip installs uv by its hashes, uv everything else by theirs: pip's own resolver would take minutes.
$(READY): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "demur needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.bootstrap.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
