# Two commands do everything on a fresh machine with Python >= 3.11, git and make:
#   make book    render the book          make test    check everything
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
INDEX  := _build/html/index.html
PAGES  := _config.yml _toc.yml $(wildcard book/*.md book/*.ipynb book/*.yml book/_static/* book/_templates/* book/figures/* \
          sto_lite/*.py sto_lite/*/*.py data/runs/*/*.json tools/page.py tools/claims.py tools/findings.py tools/claims_page.py tools/address.py)

# Everything that was built but the homework, of which somebody may have begun to teach.
UNBUILD := if [ -d _build ]; then find _build -mindepth 1 -maxdepth 1 ! -name homework -exec rm -rf {} +; fi

.DELETE_ON_ERROR:
.PHONY: help book test pdf homework links proofs lint notebooks lab requirements clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt -e .
	@touch $@

book:  ## render the book to _build/html
	@$(UNBUILD)
	@$(MAKE) --no-print-directory $(INDEX)
	@echo "The book is ready: open $(CURDIR)/$(INDEX)"

$(INDEX): $(READY) $(PAGES)
	@$(UNBUILD)
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet

test: lint $(INDEX)  ## lint, then unit, known-answer, notebook and page tests
	STO_SCALE=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 300 tests book

pdf: $(INDEX)  ## print the whole book to _build/student-teacher-oneness.pdf (needs Chromium)
	$(BIN)/python tools/pdf.py

homework: $(READY)  ## build what an instructor hands out, into _build/homework
	$(BIN)/python tools/homework.py

links: $(READY)  ## try every link that leads out of the book (needs the network)
	$(BIN)/jupyter-book build . --builder linkcheck --path-output _build/links --quiet

proofs: $(READY)  ## prove that the notebooks run on Colab, in JupyterLab, on a JupyterHub and with other versions (an hour)
	$(BIN)/python -m tools.proofs

lint: $(READY)  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy sto_lite tools

notebooks: $(READY)  ## execute every notebook at this machine's scale, and stamp it
	$(BIN)/python tools/notebooks.py run

lab: $(READY)  ## open the notebooks in JupyterLab
	cd book && ../$(BIN)/jupyter lab

requirements: $(READY)  ## pin the newest versions that pyproject.toml allows
	@echo '# Every package of the book, pinned for Python 3.11 and newer; written by "make requirements".' > $@.new
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links >> $@.new
	mv $@.new requirements.txt

clean:  ## remove what was built, and the environment
	rm -rf _build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
