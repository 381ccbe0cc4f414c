"""Text of values and exceptions that user code made: always storable, of bounded length, and never an exception."""

from __future__ import annotations

MAX_TYPE = 200


def text(value: str, limit: int) -> str:
    """A string that every store accepts: valid UTF-8, without zero bytes, the middle left out beyond `limit`."""
    exact = str.__str__(value)  # a subclass may override every method
    skipped = max(0, len(exact) - 2 * limit)  # before anything is copied: a text may have gigabytes
    bounded = exact[:limit] + exact[-limit:] if skipped else exact
    clean = bounded.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    left_out = len(clean) - limit + skipped
    if left_out <= 0:
        return clean
    head = limit // 4
    return f"{clean[:head]}\n… {left_out:,} characters left out …\n{clean[-(limit - head):]}"


def a(noun: str) -> str:
    """With its article: `an int`, `a str`."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def counted(count: int, noun: str) -> str:
    """`1 argument`, `2 arguments`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def message_of(error: BaseException, limit: int) -> str:
    """The text of an exception, whose `__str__` may itself raise anything."""
    try:
        return text(str(error), limit)
    except BaseException as fault:  # also SystemExit: it is the exception's own code that runs here
        return f"its message could not be written ({type_of(fault)})"


def type_of(error: BaseException) -> str:
    """The name of an exception's type, which a metaclass may hide."""
    try:
        return text(type(error).__qualname__, MAX_TYPE)
    except BaseException:
        return "unnamed exception type"


def named(error: BaseException, limit: int) -> str:
    """`Type: message`."""
    message = message_of(error, limit)
    return f"{type_of(error)}: {message}" if message else type_of(error)
