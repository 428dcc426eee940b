"""The contract on the wire: generated code of `recommender.proto`."""
