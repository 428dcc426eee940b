"""Shows what a run makes of one user: attention per source, and what it recommends."""
