// A slider between each swapped face and its recovered target. It shows the two pictures that stand
// above it once more, so that the file holds them only once.
for (const slider of document.querySelectorAll('.slider')) {
  const face = slider.closest('.face');
  const [found, target] = ['crop', 'target'].map(name =>
    face.querySelector(`img[data-name=${name}]`)?.cloneNode());
  if (!found || !target) continue;
  found.alt = target.alt = '';
  found.className = 'over';
  const stage = slider.querySelector('.stage');
  stage.append(target, found);
  slider.querySelector('input').addEventListener('input', event =>
    stage.style.setProperty('--at', `${event.target.value}%`));
  slider.hidden = false;
}
