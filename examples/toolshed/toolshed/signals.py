"""What parts of the application tell each other."""

from blinker import Namespace

_signals = Namespace()

#: A loan has come to a new state. Sent before the commit, with ``loan``.
loan_changed = _signals.signal("loan-changed")
