"""The errors of latenight; each class says what the daemon does about it.

LatenightError
|-- BadInput            the message or file is wrong: dead letter, its neighbours in the batch survive
|-- Unavailable         something outside is away for now: retry with backoff, nothing is committed
|   `-- Gone            a file is missing on a file system that is there: dead letter if it stays so
|-- StartupError        the daemon cannot do its job: exit 3
|-- Damaged             the broker's own data cannot be read: exit 1, says where and how to pass over them
`-- TooManyDeadLetters  the dead-letter ratio is over its cap: exit 4, the topic is not drained
"""


class LatenightError(Exception):
    """Root of all errors that latenight raises on purpose."""

    exit_code = 1


class BadInput(LatenightError):
    """The input itself is wrong and will stay wrong; trying again cannot help."""


class Unavailable(LatenightError):
    """Something outside (broker, file system) does not answer now and may answer later."""


class Gone(Unavailable):
    """A file is not there, though its file system is: deleted, or announced before all hosts see it."""


class StartupError(LatenightError):
    """The daemon cannot start: bundle, device, configuration or broker are not usable."""

    exit_code = 3


class Damaged(LatenightError):
    """What the broker has stored cannot be read; nobody but its operators can decide to leave it out."""


class TooManyDeadLetters(LatenightError):
    """So much input is rejected that the fault is more likely ours than the input's."""

    exit_code = 4
