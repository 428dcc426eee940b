"""Brings a shop's files, or a generated shop, into the form that training reads."""
