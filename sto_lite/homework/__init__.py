"""What students hand in, and how it is checked (the guide for instructors)."""
