"""The commands of latenight; every option is also an environment variable LATENIGHT_<COMMAND>_<OPTION>."""

from latenight.cli import doctor, files, kafka, upkeep
from latenight.cli.base import Commands, main

__all__ = ["Commands", "doctor", "files", "kafka", "main", "upkeep"]
