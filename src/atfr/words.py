"""Words of printed text."""


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun, or its noun and verb, which is `one` with an s where there are several.

    Examples:
        >>> counted(1, "epoch"), counted(3, "epoch"), counted(2, "was there", "were there")
        ('1 epoch', '3 epochs', '2 were there')
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def first_line(error: Exception) -> str:
    """Return an error's message, or its first line, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
