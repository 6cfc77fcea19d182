"""beartype for the jaxtyping hook, with an int allowed where a float is asked for, as in all of Python.

python -m pytest -m "not slow and not messages" --jaxtyping-packages=handgrad,typechecker.check
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
