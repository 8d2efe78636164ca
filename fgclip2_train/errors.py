"""Why a run cannot go on, said in one line: a traceback would add nothing."""


class Stopped(RuntimeError):
    pass


class NonFinite(Stopped):
    """A loss or gradient was not finite on some rank; no update was made with it or after it."""


class OtherRankFailed(Stopped):
    """This rank had nothing wrong with it but the company."""
