"""Image sets as people have them, from their owners' files to one checked array file each (chapter 1)."""
