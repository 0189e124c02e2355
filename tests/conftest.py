"""What every test starts from: the smallest scale, and the same examples in every run."""

import os

from hypothesis import settings

os.environ.setdefault("STO_SCALE", "smoke")

settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")
