"""What makes a training step cheap, and what measures it (chapter 7)."""
