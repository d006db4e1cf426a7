"""Clones: made, handed out ahead of need, dropped, and collected when their owner is dead."""
