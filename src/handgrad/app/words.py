"""What the program says on a terminal."""


def one_line(text: str) -> str:
    r"""The text on one line, what moves a cursor or changes a colour written out.

    Names of files, of columns and of classes come from anyone.

    Example:
      >>> print(one_line("no column '\x1b[31mred'\n"))
      no column '\x1b[31mred'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.split()))
