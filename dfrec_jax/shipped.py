"""What comes with the package: names that stand where a checkpoint or a weights file may be named.

Imported before anything heavy is, for `--help` and wrong flags.
"""

import pathlib

_FOLDER = pathlib.Path(__file__).parent

# The model (docs/model_card.md).
PRETRAINED = 'pretrained'
MODEL_FILE = _FOLDER / 'pretrained' / 'nano.safetensors'

# MobileFaceNets (docs/identity.md), and the one for who names none.
FACE_ENCODER = 'shipped_lfw'
ENCODERS = {
  FACE_ENCODER: _FOLDER / 'encoders' / 'shipped' / 'lfw.safetensors',
  'shipped_synthetic': _FOLDER / 'encoders' / 'shipped' / 'synthetic.safetensors',
}
