"""What each step costs beside what one would do otherwise: one file a part, and how two ways are timed in turns."""
