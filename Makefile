# Two commands do everything on a fresh machine with Python >= 3.11, git and make:
#   make book    render the book          make test    check everything
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
HTML   := _build/html
FRAME  := _build/frame
FRESH  := _build/fresh
# What every page depends on, and Sphinx does not watch.
SHARED := _config.yml _toc.yml $(wildcard book/_static/* book/_templates/* tools/*.py)
PAGES  := $(SHARED) $(wildcard book/*.md book/*.ipynb book/*.yml book/figures/* sto_lite/*.py sto_lite/*/*.py data/README.md data/*.csv data/*.yml data/runs/*/*.json data/unread/*/*.json)
CORE   := survival resnet losses methods fused peers train data faces stats plots scale notebooks chapter_code
# Two cores are taken for granted; as some tests wait for other programs, there is a worker more.
WORKERS ?= 3
PYTEST := STO_SCALE=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope
NBVAL  := --nbval-lax --nbval-current-env --nbval-cell-timeout 300

# A shell may lead Python, pip and uv elsewhere, such as to a user's own packages. Where packages come from stays its business.
SOURCES := %INDEX_URL %_INDEX %FIND_LINKS %CACHE_DIR %_CERT %_PROXY %TRUSTED_HOST %TIMEOUT %RETRIES %CONFIG_FILE \
           UV_LINK_MODE UV_OFFLINE UV_NATIVE_TLS UV_SYSTEM_CERTS UV_INSECURE_HOST UV_KEYRING_PROVIDER UV_TORCH_BACKEND
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONUSERBASE PYTHONSAFEPATH PYTHONOPTIMIZE PYTHONWARNINGS VIRTUAL_ENV CDPATH
unexport $(filter-out $(SOURCES), $(filter PIP_% UV_%, $(.VARIABLES)))
export PYTHONNOUSERSITE := 1
# Threads that wait soon sleep, so that a busy machine slows the notebooks no more than its share (sto_lite does so for its commands).
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 1000
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: again help book check test test-notebooks test-others pdf homework links proofs lint notebooks lab edit requirements clean

again:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-user uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt -e .
	@touch $@

book: $(FRAME)  ## render the book to _build/html; what did not change stays
	$(BIN)/jupyter-book build . -n --keep-going --quiet
	@echo "The book is ready: open $(CURDIR)/$(HTML)/index.html"

$(FRAME): $(READY) $(SHARED)
	rm -rf $(HTML) _build/.doctrees
	@mkdir -p $(@D) && touch $@

# The book that is tested and published: built afresh, and a warning is an error.
$(FRESH): $(READY) $(PAGES) $(if $(wildcard $(HTML)/index.html),,again)
	rm -rf $(HTML) _build/.doctrees
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@touch $(FRAME) $@

check: lint  ## style, types and core tests: some two minutes
	$(PYTEST) --quiet $(CORE:%=tests/test_%.py)

test: lint $(FRESH)  ## everything: lint, then unit, known-answer, notebook and page tests
	$(PYTEST) $(NBVAL) tests book

test-notebooks: $(READY)  ## the part of the tests that runs every notebook
	$(PYTEST) $(NBVAL) book

test-others: $(FRESH)  ## the other part
	$(PYTEST) tests

pdf: $(FRESH)  ## print the whole book to _build/student-teacher-oneness.pdf (needs Chromium)
	$(BIN)/python tools/pdf.py

homework: $(READY)  ## build what an instructor hands out, into homework/
	$(BIN)/python tools/homework.py

links: $(READY)  ## try every link that leads out of the book (needs the network)
	$(BIN)/jupyter-book build . --builder linkcheck --path-output _build/links --quiet

proofs: $(READY)  ## prove that the notebooks run on Colab, in JupyterLab, on a JupyterHub and with other versions (an hour)
	$(BIN)/python -m tools.proofs

lint: $(READY)  ## formatting, style, spelling and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy sto_lite tools

notebooks: $(READY)  ## execute every notebook at this machine's scale, and stamp it
	$(BIN)/python tools/notebooks.py run

lab: $(READY)  ## read and run the chapters in JupyterLab: copies in lab/, which are yours to change
	$(BIN)/python tools/notebooks.py lab
	cd lab && JUPYTER_CONFIG_PATH=.jupyter ../$(BIN)/jupyter lab 00-setup.ipynb

edit: $(READY)  ## open the book's own notebooks in JupyterLab, to change the book
	cd book && ../$(BIN)/jupyter lab

requirements: $(READY)  ## pin the newest versions that pyproject.toml allows
	@echo '# Every package of the book, pinned for Python 3.11 and newer; written by "make requirements".' > $@.new
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links >> $@.new
	mv $@.new requirements.txt

clean:  ## remove what was built, and the environment; homework/ and lab/ stay
	rm -rf _build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
