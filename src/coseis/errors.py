"""Every failure that a user can cause or meet, each with the exit code that a batch system reads."""


class CoseisError(Exception):
    """Base of all errors that `coseis` reports in one line. `exit_code` is part of the CLI contract."""

    exit_code = 1


class UsageError(CoseisError):
    """The request itself is wrong: option, config, AOI, event time, model. Running again cannot help."""

    exit_code = 2


class InputRefusedError(CoseisError):
    """The catalog, an asset or the output is unusable: bad, missing, forbidden or another run's."""

    exit_code = 42


class UnreachableError(CoseisError):
    """Something did not answer: a catalog, a store, the scheduler, workers. Run again.

    SIGTERM ends with the same code: that a machine is taken away is no fault of the run, which can go on.
    """

    exit_code = 75


class IncompleteError(CoseisError):
    """The run ended and published its results, but some chunks failed and are listed."""

    exit_code = 3
