"""The program's own help, so that its page cannot drift from it."""

import os
import subprocess
import sys

# In one process, since it is typer that takes its time to import.
RUN = """
from handgrad.app import cli, program
names = [each.name or each.callback.__name__ for each in program.app.registered_commands]
for command in [[], *([name] for name in names)]:
    print("\\0" + "".join(command))
    cli.main([*command, "--help"])
"""


def show_program() -> str:
    """What `handgrad --help` says, and for each command what its own help says."""
    environment = os.environ | {"TYPER_USE_RICH": "0", "COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1"}
    run = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True)
    parts = []
    for part in run.stdout.split("\0")[1:]:
        name, _, text = part.partition("\n")
        parts.append((f"## handgrad {name}\n\n" if name else "") + f"```text\n{text.strip()}\n```")
    return "\n\n".join(parts)
