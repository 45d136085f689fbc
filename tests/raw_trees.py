"""Miniature raw downloads in the official layouts, made of synthetic faces."""

import dataclasses
import functools
import json

import cv2
import numpy as np

from input_pipeline.synthetic.person import Person, draw_person
from input_pipeline.synthetic.photo import Photo, draw_photo
from input_pipeline.synthetic.render import render
from input_pipeline.synthetic.swap import draw_style, swap_face
from tests.h264 import write_h264

SIDE = 128  # of a portrait, in pixels
FRAME = (160, 192)  # height and width of a video
SPLITS = {
  'train': [['000', '001'], ['012', '003'], ['006', '007']],
  'val': [['004', '005']],
  'test': [['010', '009']],
}
LENGTHS = {'000': 7, '001': 9, '004': 8, '005': 5}


@dataclasses.dataclass(frozen=True)
class Portrait:
  """A synthetic person's photograph, and what a swap needs of it."""

  person: Person
  photo: Photo
  picture: np.ndarray  # (SIDE, SIDE, 3) float32
  hair: np.ndarray

  @property
  def image(self):
    return to_bytes(self.picture)


def to_bytes(picture):
  return (picture * 255 + np.float32(0.5)).astype(np.uint8)


@functools.cache
def portrait(number, frontal=True):
  """The portrait of a person by number, the same in all tests."""
  rng = np.random.default_rng([7, number])
  person, photo = draw_person('train', number), draw_photo(rng)
  if frontal:
    pose = dataclasses.replace(photo.pose, yaw=0.05, pitch=0.0, roll=0.0, shift_x=0.0, shift_y=0.0)
    photo = dataclasses.replace(photo, pose=pose)
  return Portrait(person, photo, *render(person, photo, SIDE, rng))


@functools.cache
def swap(source, target):
  """(forged (SIDE, SIDE, 3) uint8, mask (SIDE, SIDE) uint8) of two numbers."""
  rng = np.random.default_rng([8, source, target])
  a, b = portrait(source), portrait(target)
  style = dataclasses.replace(draw_style(rng), attack='alpha')
  forged, weight = swap_face(
    (a.person, a.photo), (b.person, b.photo), b.picture, b.hair, style, rng
  )
  return to_bytes(forged), np.where(weight[..., 0] > 0, 255, 0).astype(np.uint8)


def frame(image, index):
  """The frame of a video in which a portrait has moved `index` pixels to the right."""
  beside = (FRAME[1] - SIDE) // 2
  borders = ((FRAME[0] - SIDE) // 2,) * 2 + (beside + index, beside - index)
  if image.ndim == 2:
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT)
  return cv2.copyMakeBorder(image, *borders, cv2.BORDER_REPLICATE)


def video(path, image, length, first=0, write=write_h264):
  """Writes a video of a portrait or of a mask."""
  frames = [frame(image, index) for index in range(first, first + length)]
  if image.ndim == 2:
    frames = [np.repeat(f[..., None], 3, -1) for f in frames]
  write(path, frames)


def make_ffpp(root):
  """FaceForensics++ with what goes wrong in it.

  000 and 001 are whole but of odd lengths, and a mask video of theirs ends early; 003 is missing;
  a fake of 006 is broken, and one of 007 comes from another stretch of its target; 004 and 005 are
  whole; 009 shows no face.
  """
  for split, pairs in SPLITS.items():
    path = root / 'splits' / f'{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(pairs))
  originals = root / 'original_sequences/youtube/c23/videos'
  for name in (v for pairs in SPLITS.values() for pair in pairs for v in pair):
    if name != '003':
      image = np.full((SIDE, SIDE, 3), 90, np.uint8) if name == '009' else portrait(int(name)).image
      video(originals / f'{name}.mp4', image, LENGTHS.get(name, 6))
  for pair in (p for pairs in SPLITS.values() for p in pairs):
    for target, source in (pair, pair[::-1]):
      _make_fakes(root / 'manipulated_sequences', target, source)
  deepfakes = root / 'manipulated_sequences/Deepfakes'
  broken = deepfakes / 'c23/videos/006_007.mp4'
  broken.write_bytes(broken.read_bytes()[:5000])
  video(deepfakes / 'c23/videos/007_006.mp4', swap(6, 7)[0], 6, first=8)
  video(deepfakes / 'masks/videos/007_006.mp4', swap(6, 7)[1], 6, first=8)


def make_pair(root, compression, methods, length, write=write_h264):
  """FaceForensics++ with the one pair 000 and 001 in a compression, and all lists."""
  for split, pairs in SPLITS.items():
    path = root / 'splits' / f'{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([pair for pair in pairs if pair == ['000', '001']]))
  for target, source in (('000', '001'), ('001', '000')):
    videos = f'{compression}/videos/{target}'
    image = portrait(int(target)).image
    video(root / f'original_sequences/youtube/{videos}.mp4', image, length, write=write)
    forged, mask = swap(int(source), int(target))
    for method in methods:
      folder = root / 'manipulated_sequences' / method
      video(folder / f'{videos}_{source}.mp4', forged, length, write=write)
      if method != 'FaceShifter':
        path = folder / f'masks/videos/{target}_{source}.mp4'
        video(path, mask, length, write=write)


def _make_fakes(folder, target, source):
  length = LENGTHS.get(target, 6)
  forged, mask = swap(int(source), int(target))
  name = f'{target}_{source}.mp4'
  for method in ('Deepfakes', 'FaceSwap', 'FaceShifter', 'Face2Face'):
    # Reenactments of FaceForensics++ are as long as the shorter of two videos.
    short = min(length, LENGTHS.get(source, 6)) if method == 'Face2Face' else length
    video(folder / method / 'c23/videos' / name, forged, short)
    if method != 'FaceShifter':
      early = 3 if (method, name) == ('FaceSwap', '001_000.mp4') else length
      video(folder / method / 'masks/videos' / name, mask, early)


def save(path, image, **options):
  """Writes an RGB image."""
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), image[..., ::-1], list(options.get('flags', ())))
  return path


def make_celeba_megafs(root, people):
  """CelebA-MegaFS with six photographs of as many people, and what goes wrong in it.

  FTM/0_1, LCR/1_0 and IDInjection/0_1 are whole; 2_0 is truncated, 3_0 shows no face in its target,
  4_0 is of another shape, `cover` is no swap; 5 belongs to a split of its own.
  """
  for number in range(6):
    image = portrait(number).image if number != 3 else np.full((SIDE, SIDE, 3), 90, np.uint8)
    save(root / f'CelebA-HQ-img/{number}.jpg', image)
  for method, target, source in (('FTM', 0, 1), ('LCR', 1, 0), ('IDInjection', 0, 1)):
    save(root / method / f'{target}_{source}.jpg', swap(source, target)[0])
  cut = save(root / 'FTM/2_0.jpg', swap(0, 2)[0])
  cut.write_bytes(cut.read_bytes()[:900])
  save(root / 'FTM/3_0.jpg', swap(0, 1)[0])
  save(root / 'LCR/4_0.jpg', swap(0, 4)[0][:100])
  save(root / 'LCR/5_0.jpg', swap(0, 5)[0])
  save(root / 'LCR/cover.jpg', swap(0, 1)[0])
  lines = [f'{n:>9}{1000 + n:>16}  {n + 1:06d}.jpg' for n in range(6)]
  mapping = '\n'.join([' idx   orig_idx   orig_file', *lines])
  (root / 'CelebA-HQ-to-CelebA-mapping.txt').write_text(mapping)
  owners = '\n'.join(f'{n + 1:06d}.jpg {people[n]}' for n in range(6))
  (root / 'identity_CelebA.txt').write_text(owners + '\n')


def make_ffhq_e4s(root):
  """FFHQ-E4S: three photographs, and swaps in both directions between each two."""
  lines = ['forged,source,target']
  for number in (0, 1, 3):
    save(root / f'ffhq/{number:05d}.png', portrait(number).image)
  for source, target in ((0, 1), (1, 0), (0, 3), (3, 0), (1, 3), (3, 1)):
    name = f'swaps/{target}_{source}.png'
    save(root / name, swap(source, target)[0])
    lines.append(f'{name},ffhq/{source:05d}.png,ffhq/{target:05d}.png')
  (root / 'list.csv').write_text('\n'.join(lines))


def make_megafs_ffpp(root):
  """Strips of source, target and swap: two whole, one of two images, one across splits and one
  without a name.
  """
  for split, pairs in SPLITS.items():
    path = root / 'splits' / f'{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(pairs))
  strip = lambda s, t: [portrait(s).image, portrait(t).image, swap(s, t)[0]]
  save(root / 'images/000_001/12.png', np.hstack(strip(1, 0)))
  save(root / 'images/004_005_0007.png', np.hstack(strip(5, 4)))
  save(root / 'images/001_000/12.png', np.hstack(strip(0, 1)[:2]))
  save(root / 'images/000_004/12.png', np.hstack(strip(4, 0)))
  save(root / 'images/readme.png', np.hstack(strip(0, 1)))


def turned(number):
  """A portrait whose head looks to one side."""
  straight = portrait(number)
  photo = dataclasses.replace(
    straight.photo, pose=dataclasses.replace(straight.photo.pose, yaw=0.5)
  )
  return to_bytes(render(straight.person, photo, SIDE, np.random.default_rng(1))[0])
