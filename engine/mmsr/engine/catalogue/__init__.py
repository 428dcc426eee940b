"""The catalogue that lives: items are added, changed and removed while the server serves."""
