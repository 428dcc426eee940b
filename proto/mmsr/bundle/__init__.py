"""The contract on disk: what export writes and the engine reads."""
