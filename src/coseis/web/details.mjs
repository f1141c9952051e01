// The attributes of a landslide as a card. What a tile says is data: it becomes text, never markup.
import {CHANGES} from './style.mjs';
import {areaText, byId, element} from './panel.mjs';

const share = (value) => `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
const ratio = (value) => value.toFixed(3);
const metres = (value) => `${Math.round(value).toLocaleString('en')} m`;

// Name in the tiles: label, how a number is written. Others are shown under their own names.
const KNOWN = {
  change: ['kind', null],
  area_m2: ['area', areaText],
  perimeter_m: ['perimeter', metres],
  probability_mean: ['probability, mean', ratio],
  probability_max: ['probability, highest', ratio],
  pixel_count: ['pixels', (value) => value.toLocaleString('en')],
  context_incomplete_share: ['share without full context', share],
  scenes: ['scenes', null],
  id: ['id', null],
  model_digest: ['model', null],
};
const UNITS = {_m2: ' m²', _m: ' m', _km: ' km', _deg: '°', _px: ' px', _s: ' s'};

/** Label and text of an attribute, with its unit, which our names end with. */
export function describe(name, value) {
  const [label, write] = KNOWN[name] ?? [];
  if (name === 'change') return [label, CHANGES[value]?.[1] ?? String(value)];
  if (label) return [label, write && typeof value === 'number' ? write(value) : String(value)];
  if (typeof value !== 'number') return [name.replaceAll('_', ' '), String(value)];
  if (name.endsWith('_share')) return [name.replaceAll('_', ' '), share(value)];
  const [ending, unit] = Object.entries(UNITS).find(([end]) => name.endsWith(end)) ?? ['', ''];
  const words = name.slice(0, name.length - ending.length).replaceAll('_', ' ');
  return [words, `${Number(value.toPrecision(6)).toLocaleString('en', {maximumFractionDigits: 4})}${unit}`];
}

/** Shows the attributes; hides the card where there are none. */
export function showDetails(properties, close) {
  const card = byId('details');
  const returning = card.contains(document.activeElement);
  card.hidden = !properties;
  if (!properties) {
    if (returning) document.querySelector('#after canvas').focus();
    return;
  }
  const order = [...new Set([...Object.keys(KNOWN), ...Object.keys(properties)])].filter((name) => name in properties);
  const rows = order.flatMap((name) => {
    const [label, text] = describe(name, properties[name]);
    // A digest is told by its beginning; the whole is in the tooltip.
    const short = /^[0-9a-f]{40,}$/.test(text) ? `${text.slice(0, 12)}…` : text;
    return [element('dt', {textContent: label}), element('dd', {textContent: short, title: text})];
  });
  byId('attributes').replaceChildren(...rows);
  byId('close').onclick = close;
  card.onkeydown = (event) => event.key === 'Escape' && close();
  byId('close').focus({preventScroll: true});
}
