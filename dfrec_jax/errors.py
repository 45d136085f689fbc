"""The error that a user can mend."""


class InputError(ValueError):
  """A file, flag or setting is wrong.

  The message is one sentence that names it and says what to do; `main` prints it without a
  traceback.
  """
