"""How much may wait at once."""

import threading


class Budget:
  """A bounded amount that threads share. What exceeds all of it is let in alone."""

  def __init__(self, amount: int):
    self._amount, self._taken, self._waiting, self._closed = amount, 0, 0, False
    self._changed = threading.Condition()

  @property
  def waiting(self) -> int:
    """Threads that wait for their share."""
    with self._changed:
      return self._waiting

  def acquire(self, share: int) -> bool:
    """Waits until the share is free and takes it; False once the budget is closed."""
    with self._changed:
      self._waiting += 1
      self._changed.wait_for(
        lambda: self._closed or not self._taken or self._taken + share <= self._amount
      )
      self._waiting -= 1
      if self._closed:
        return False
      self._taken += share
      return True

  def release(self, share: int) -> None:
    """Gives a share back."""
    with self._changed:
      self._taken -= share
      self._changed.notify_all()

  def close(self) -> None:
    """Ends all waiting."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
