"""The root of every error that a user of MMSR can cause or mend."""


class MmsrError(Exception):
    """Says what was received, what was expected and what to do.

    The commands print it as one line on standard error and exit with `exit_code`.
    """

    exit_code = 1


class BundleError(MmsrError):
    """A bundle or a repository is missing, damaged or of another format."""


def one_line(error: BaseException) -> str:
    """Return what a library says of a damaged file as one printable line."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def printable(text: str) -> str:
    """Return a text for a terminal or a log, which it cannot garble."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
