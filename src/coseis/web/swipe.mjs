// The image before the event over the left part of the map, and the handle that moves their border.
import {byId} from './panel.mjs';

const STEP = 2;

export function makeSwipe(after, before, dates) {
  const [stage, view, swipe, handle] = ['stage', 'before', 'swipe', 'handle'].map(byId);
  view.hidden = swipe.hidden = false;
  byId('before-label').textContent = `before · ${dates.pre}`;
  byId('after-label').textContent = `after · ${dates.post}`;
  before.resize();

  const follow = () => before.jumpTo({center: after.getCenter(), zoom: after.getZoom(), bearing: after.getBearing()});
  after.on('move', follow);
  after.on('resize', () => before.resize());
  follow();

  const put = (percent) => {
    const place = Math.min(100, Math.max(0, percent));
    stage.style.setProperty('--border', `${place}%`);
    handle.setAttribute('aria-valuenow', Math.round(place));
    handle.setAttribute('aria-valuetext', `${Math.round(place)} % of the map shows before`);
  };
  const now = () => Number(handle.getAttribute('aria-valuenow'));
  const steps = {
    ArrowLeft: () => now() - STEP,
    ArrowDown: () => now() - STEP,
    ArrowRight: () => now() + STEP,
    ArrowUp: () => now() + STEP,
    PageDown: () => now() - 10,
    PageUp: () => now() + 10,
    Home: () => 0,
    End: () => 100,
  };
  handle.addEventListener('keydown', (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    put(steps[event.key]());
  });
  handle.addEventListener('pointerdown', (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener('pointermove', (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const {left, width} = stage.getBoundingClientRect();
    put(((event.clientX - left) / width) * 100);
  });
  put(50);
}
