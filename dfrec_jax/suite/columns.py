"""The figures of the suite: names, headings, formats, and which way is better."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Column:
  """How a figure is shown.

  Attributes:
    heading: short.
    style: of `format`.
    better: 1 where higher is better, -1 where lower is, 0 where neither is.
    meaning: one sentence, for the page's list of definitions.
  """

  heading: str
  style: str
  better: int
  meaning: str


_IDENTITY = 'cosine of identity embeddings of the recovered and the true photograph'
_FIRST = 'share of recovered faces that find the right person {}, by the same embeddings'
COLUMNS = {
  'target_psnr': Column('PSNR', '.2f', 1, 'dB, mean over images'),
  'target_psnr_masked': Column('PSNR, mask', '.2f', 1, 'the same over the pixels of the true mask'),
  'target_psnr_pooled': Column(
    'PSNR, pooled',
    '.2f',
    1,
    'dB, of the mean squared error of all images; the mean over images counts an untouched one as '
    '100',
  ),
  'target_ssim': Column('SSIM', '.3f', 1, 'uniform 7x7 window on uint8'),
  'target_ssim_masked': Column('SSIM, mask', '.3f', 1, 'mean of the windows centred in the mask'),
  'target_ms_ssim': Column(
    'MS-SSIM', '.3f', 1, 'five scales; Gaussian window of 11 px, 7 px for sides of 160 and less'
  ),
  'target_ms_ssim_masked': Column(
    'MS-SSIM, mask', '.3f', 1, 'its terms averaged over the mask at each scale'
  ),
  'target_lpips': Column('LPIPS', '.3f', -1, 'learned perceptual distance, version 0.1'),
  'target_lpips_masked': Column('LPIPS, mask', '.3f', -1, 'mean of its enlarged maps in the mask'),
  'target_fid': Column('FID', '.1f', -1, 'Fréchet distance of Inception features, whole set'),
  'target_fid_masked': Column('FID, mask', '.1f', -1, "the same of the mask's bounding boxes"),
  'target_kid': Column('KID x1000', '.2f', -1, 'unbiased kernel distance of the same features'),
  'target_kid_masked': Column(
    'KID x1000, mask', '.2f', -1, "the same of the mask's bounding boxes"
  ),
  'target_landmarks': Column(
    'landmarks', '.3f', -1, 'mean error of 468 points in units of the eye distance'
  ),
  'target_landmarks_found': Column(
    'faces found', '.1%', 1, "share of faces whose landmarks are found, where the true one's are"
  ),
  'target_landmarks_masked': Column(
    'landmarks, mask', '.3f', -1, 'the same over the points in the mask'
  ),
  'target_detail': Column(
    'detail', '.2f', 0, "Laplacian's root mean square relative to the true photograph; 1 is right"
  ),
  'target_detail_masked': Column('detail, mask', '.2f', 0, 'the same in the mask'),
  'target_identity': Column('target id', '.3f', 1, _IDENTITY),
  'target_top1': Column(
    'target top 1', '.1%', 1, _FIRST.format("first among the set's target photographs")
  ),
  'target_top5': Column(
    'target top 5', '.1%', 1, _FIRST.format("among the first five of the set's target photographs")
  ),
  'target_top1_people': Column(
    'target top 1, people', '.1%', 1, _FIRST.format('first among all test people, both roles')
  ),
  'target_top5_people': Column(
    'target top 5, people', '.1%', 1, _FIRST.format('among the first five of all test people')
  ),
  'source_identity': Column('source id', '.3f', 1, _IDENTITY),
  'source_top1': Column(
    'source top 1', '.1%', 1, _FIRST.format("first among the set's source photographs")
  ),
  'source_top5': Column(
    'source top 5', '.1%', 1, _FIRST.format("among the first five of the set's source photographs")
  ),
  'source_top1_people': Column(
    'source top 1, people', '.1%', 1, _FIRST.format('first among all test people, both roles')
  ),
  'source_top5_people': Column(
    'source top 5, people', '.1%', 1, _FIRST.format('among the first five of all test people')
  ),
  'source_psnr': Column('source PSNR', '.2f', 1, 'dB, against the photograph that was pasted'),
  'source_ssim': Column('source SSIM', '.3f', 1, 'as for the target'),
  'source_ms_ssim': Column('source MS-SSIM', '.3f', 1, 'as for the target'),
  'source_lpips': Column('source LPIPS', '.3f', -1, 'as for the target'),
  'source_fid': Column('source FID', '.1f', -1, 'as for the target'),
  'source_kid': Column('source KID x1000', '.2f', -1, 'as for the target'),
  'source_detail': Column('source detail', '.2f', 0, 'as for the target'),
  'mask_iou': Column('mask IoU', '.3f', 1, 'intersection over union, threshold 0.5'),
  'mask_f1': Column('mask F1', '.3f', 1, 'of the same pixels'),
  'mask_boundary_f1': Column(
    'boundary F1', '.3f', 1, 'of the boundaries, met within 0.8 % of the diagonal (DAVIS)'
  ),
  'mask_area': Column('mask area', '.1%', 0, 'share of the photograph in the predicted mask'),
  'changed_pixels': Column(
    'changed pixels', '.1%', 0, 'share of pixels that differ from the input by more than 2 of 255'
  ),
  'untouched': Column(
    'untouched', '.1%', 0, 'share of photographs of which no pixel differs from the input by more'
  ),
  'auc': Column('AUC', '.3f', 1, 'real against fake, area under the ROC curve'),
  'eer': Column('EER', '.1%', -1, 'where false alarms are as frequent as misses'),
  'accuracy': Column('accuracy', '.1%', 1, 'at the threshold 0.5'),
  'calibration_error': Column(
    'ECE', '.3f', -1, 'expected calibration error of the score, 15 bins of equal width'
  ),
  'examples': Column('examples', 'd', 0, 'photographs counted'),
}
_OF_ENCODER = re.compile(r'((?:source|target)_(?:identity|top[15](?:_people)?))@(.+)')
# What a table of methods shows where there is no room for all.
MAIN = (
  'target_psnr',
  'target_psnr_masked',
  'target_ssim',
  'target_lpips',
  'target_identity',
  'target_top1',
  'source_identity',
  'mask_iou',
  'auc',
)


def column(name: str) -> Column:
  """The column of a figure; `NAME@ENCODER` is a figure of identity by a further encoder."""
  if name in COLUMNS:
    return COLUMNS[name]
  if match := _OF_ENCODER.fullmatch(name):
    base = COLUMNS[match[1]]
    return dataclasses.replace(base, heading=f'{base.heading} ({match[2]})')
  raise KeyError(name)


def person_of(name: str) -> str:
  """Whose people a figure's bootstrap draws: `source` for figures of the source, else `target`."""
  return 'source' if name.startswith('source_') else 'target'
