"""Hold this package to reference numbers taken from the official program: `python -m fgclip2_train parity DIR`."""

from fgclip2_train.parity.run import check_folder

__all__ = ["check_folder"]
