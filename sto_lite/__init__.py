"""The finished code of the book *Student-Teacher Oneness*; every module names the chapter that explains it."""

__version__ = "0.1.0"
