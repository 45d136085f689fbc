"""Plain sentences for results: what a number means, and what it does not."""

from collections.abc import Mapping, Sequence
import pathlib
import re
from typing import Any

from dfrec_jax.trace.rates import one_in

# Controls, lone surrogates and marks that turn the direction of writing: in a file's name they
# hide or disguise what it is called.
_UNPRINTABLE = re.compile(
  '[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)
_NO_BREAK = '\u00a0'

SCORES_AS_SWAPPED, NO_SWAP_FOUND = 'scores as swapped', 'no swap found'
# What the cascade does not find, whatever its size.
UNSEEN = 'faces turned far aside, tilted by more than about 25 degrees or upside down'
LABELS = {
  'seed': 'Seed',
  'draws': 'Random draws a face',
  'batch_size': 'Batch size',
  'threshold': 'Threshold of the score',
  'false_alarms': 'False alarms aimed at',
  'finder': 'Face finder',
  'margin': 'Crop side, in face sizes',
  'already_cropped': 'Inputs already cropped',
  'fps': 'Video frames a second',
}
_TRACK_PICTURES = {
  'frame': 'The frame that shows the face best',
  'source-of-best-frame': 'Recovered source of that frame alone, an estimate',
  'target-of-best-frame': 'Recovered target of that frame alone, an estimate',
}


def printable(text: str) -> str:
  """The text with unprintable characters written out as escapes."""
  return _UNPRINTABLE.sub(lambda found: found[0].encode('unicode_escape').decode(), text)


def percent(rate: float) -> str:
  """A share in [0, 1] as per cent, with two digits where it is small."""
  value = 100 * rate
  digits = f'{value:.2g}' if 0 < value < 1 else f'{value:.1f}' if value < 10 else f'{value:.0f}'
  return f'{digits.removesuffix(".0")}{_NO_BREAK}%'


def score(value: float) -> str:
  """A score in [0, 1]; never rounded to certainty."""
  if value > 0.9995:
    return f'>{_NO_BREAK}0.999'
  if value < 0.0005:
    return f'<{_NO_BREAK}0.001'
  return f'{value:.3f}'


def _spelled(value: float) -> str:
  """A score within a sentence."""
  return score(value).replace(f'>{_NO_BREAK}', 'above ').replace(f'<{_NO_BREAK}', 'below ')


def setting(value: Any) -> str:
  """A setting's value in words."""
  if value is None or value == '':
    return 'none'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def count(number: int, noun: str, plural: str = '') -> str:
  """`1 face`, `2 faces`; `plural` where it is not the noun with an s."""
  return f'{number:,} {noun}' if number == 1 else f'{number:,} {plural or f"{noun}s"}'


def verdict(entry: Mapping[str, Any]) -> tuple[str, str]:
  """The outcome of an input: a key (`swap`, `none`, `faceless`, `failed`) and its words."""
  faces = entry['faces']
  if entry['status'] != 'done':
    return 'failed', 'Not examined'
  if not faces:
    return 'faceless', 'No face found'
  swapped = sum(face['swapped'] for face in faces)
  if not swapped:
    return 'none', NO_SWAP_FOUND.capitalize()
  if len(faces) == 1:
    return 'swap', SCORES_AS_SWAPPED.capitalize()
  score_ = 'scores' if swapped == 1 else 'score'
  return 'swap', f'{swapped} of {len(faces)} faces {score_} as swapped'


def false_alarms(face: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> str:
  """How often genuine photographs score as high as this face."""
  rate = face['false_alarm_rate']
  if rate is None or not calibration:
    return (
      'How often genuine photographs score as high is not known: the checkpoint carries no scores '
      'of an evaluation.'
    )
  total, people = calibration['pristine'], calibration.get('people')
  whose = f' (of {count(people, "person", "people")})' if people else ''
  photographs = f'{total:,} genuine photographs of the evaluation{whose}'
  if rate == 0:
    # The rate at which seeing none of so many becomes as unlikely as 5 %. Photographs of one person
    # are alike: as long as it is known, people are counted.
    bound = 1 - 0.05 ** (1 / max(people or total, 1))
    given = 'counted by people' if people else 'if each shows another person'
    return (
      f'None of the {photographs} scored as high. So few cannot exclude false alarms in up to '
      f'{percent(bound)} of cases (95{_NO_BREAK}% confidence, {given}).'
    )
  return f'{round(rate * total):,} of the {photographs}, {percent(rate)}, scored as high or higher.'


def expected_alarms(examined: int, rate: float | None) -> str:
  """How many faces were examined, and how many of as many genuine ones would score as swapped.

  Args:
    examined: faces.
    rate: of false alarms that the threshold was chosen for; None where it was not.
  """
  were = f'{count(examined, "face")} {"was" if examined == 1 else "were"} examined'
  if rate is None:
    return f'{were}; how many of as many genuine ones would score as swapped is not known.'
  if examined == 1:
    return f'{were}; of genuine ones about {percent(rate)} score as swapped.'
  number = rate * examined
  about = f'{number:.0f}' if number >= 10 else f'{number:.1f}'.removesuffix('.0')
  return f'{were}; of as many genuine ones about {about} would score as swapped.'


def decision(face: Mapping[str, Any], threshold: float) -> str:
  """The score against the threshold."""
  if face['swapped']:
    return (
      f'The score of being forged is {_spelled(face["score"])}; from {score(threshold)} on, a face '
      'counts as swapped.'
    )
  return f'The score of being forged is {_spelled(face["score"])}, below {score(threshold)}.'


def stability(face: Mapping[str, Any]) -> str:
  """How much the recovered target depends on chance."""
  if face['instability'] is None:
    return 'How stable the recovery is was not measured, since a single draw was made.'
  return (
    f'Over {face["draws"]} random draws, the recovered target varies inside the mask by '
    f'{face["instability"]:.1f} of 255 grey levels (standard deviation). A small number says that '
    'the method repeats itself, not that it is right.'
  )


def similarity(value: float) -> str:
  """A cosine, without a minus before zero."""
  return f'{round(value, 2) + 0.0:.2f}'


def first_place(candidates: Mapping[str, Sequence[Mapping[str, Any]]], who: str) -> str:
  """How little it may mean that somebody is the nearest to the recovered source or target.

  Args:
    candidates: of a face, by `source` and `target`.
    who: which of the two.
  """
  first = candidates[who][0]
  rate = first['best_match_rate']
  if rate is None:
    chance = 'How often strangers find somebody as similar is not known of so small a gallery.'
  else:
    chance = (
      f'Of people who are not in the gallery, {one_in(rate, first["queries"])} would find somebody '
      'at least as similar by a photograph; by a recovered face it may be more.'
    )
  sentences = f'Nearest to the recovered {who} is {first["person"]}. {chance}'
  if who == 'target' and near_source(first, candidates):
    sentences += (
      f' {first["person"]} is also nearest to the recovered source: a recovered target often keeps '
      'features of the pasted face, so this is more likely the person who was pasted than the one '
      'who was covered.'
    )
  return sentences


def near_source(
  candidate: Mapping[str, Any], candidates: Mapping[str, Sequence[Mapping[str, Any]]]
) -> bool:
  """Whether somebody near the recovered target is the nearest to the recovered source."""
  source = candidates.get('source')
  return bool(source) and candidate['person'] == source[0]['person']


def over_time(track: Mapping[str, Any], threshold: float) -> str:
  """The scores of a track, for those who do not see its plot."""
  scores: Sequence[float] = track['scores']
  high = sum(value >= threshold for value in scores)
  return (
    f'The face was found in {count(len(scores), "sampled frame")}, and its score is their median. '
    f'{high:,} of them score at least {score(threshold)}; the lowest is {_spelled(min(scores))}, '
    f'the highest {_spelled(max(scores))}. Rates of false alarms are of single photographs, not of '
    'videos.'
  )


def track_picture(path: str) -> str:
  """What a picture of a track shows, by its name."""
  return _TRACK_PICTURES.get(pathlib.PurePosixPath(path).stem, 'A frame with the face')
