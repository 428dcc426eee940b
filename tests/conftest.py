"""What every test may use."""

import os

# No test may reach for a model hub: weights come from the installed package or are made here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
