// The panel with the sizes of the landslides: a button opens it over the map, nothing else moves.
import {byId} from './panel.mjs';

const FIGURE = 'statistics.png';

/** Makes the button work. The figure is asked for when it is first opened. */
export function makeSizes(facts) {
  const [panel, button, figure] = [byId('sizes'), byId('show-sizes'), byId('sizes-figure')];
  byId('sizes-note').textContent =
    `All landslides of the event as the run drew them, at ${facts.threshold.toFixed(2)}: the slider does not change this.`;
  figure.addEventListener('error', () => {
    figure.hidden = true;
    byId('sizes-note').textContent = 'This run has no figure of sizes: coseis vectorize draws it.';
  });
  const show = (open) => {
    panel.hidden = !open;
    button.setAttribute('aria-expanded', open);
    if (open && !figure.getAttribute('src')) figure.src = FIGURE;
    (open ? byId('close-sizes') : button).focus({preventScroll: true});
  };
  button.addEventListener('click', () => show(panel.hidden));
  byId('close-sizes').addEventListener('click', () => show(false));
  panel.addEventListener('keydown', (event) => event.key === 'Escape' && show(false));
}
