// The panel: what the run found, the slider, layers and legend. Text only ever becomes text.
import {CHANGES, OUTLINE, STATUSES, hasChanges, rampColour, rgba} from './style.mjs';

export const byId = (id) => document.getElementById(id);

/** A new element with text and children; never markup. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const number = new Intl.NumberFormat('en');
const oneDay = new Intl.DateTimeFormat('en-GB', {day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC'});
const shortDay = new Intl.DateTimeFormat('en-GB', {day: 'numeric', month: 'short', year: 'numeric', timeZone: 'UTC'});
const clock = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit', timeZone: 'UTC'});

export function areaText(m2) {
  if (m2 < 1e4) return `${number.format(Math.round(m2))} m²`;
  if (m2 < 1e5) return `${(m2 / 1e4).toFixed(1)} ha`;
  return `${(m2 / 1e6).toFixed(m2 < 1e8 ? 2 : 0)} km²`;
}

export function datesText([first, last]) {
  return shortDay.formatRange(new Date(first), new Date(last));
}

/** Count and area of the landslides that a choice leaves, from the tables of map.json. */
export function tally(facts, {threshold, attribute, changes}) {
  const step = Math.round(threshold * 100);
  const kinds = Object.keys(facts.counts[attribute]).filter((kind) => !changes || changes.includes(kind));
  const sum = (table) => kinds.reduce((total, kind) => total + table[attribute][kind][step], 0);
  return {count: sum(facts.counts), area: sum(facts.areas_m2)};
}

export function showFacts(facts) {
  const event = new Date(facts.event_time);
  byId('title').textContent = oneDay.format(event);
  document.title = `Landslides after the earthquake of ${oneDay.format(event)}`;
  byId('subtitle').textContent = `${facts.grade} · ${clock.format(event)} UTC · ${number.format(+facts.aoi_km2.toPrecision(3))} km²`;
  const share = facts.observed_share * 100;
  byId('observed').textContent = `${share >= 99.95 || share === 0 ? share.toFixed(0) : share.toFixed(1)} %`;
  showNotes(facts);
  const links = [['landslides.parquet', 'polygons'], ['probability.tif', 'probability'], ['status.tif', 'status'],
    ['run.json', 'report']];
  byId('files').append(
    element('a', {href: 'report.html', textContent: 'one page to print'}),
    ...links.map(([file, name]) => element('a', {href: file, download: '', textContent: name})),
  );
  byId('credits').textContent = [...facts.attribution, `${facts.model_name}, coseis ${facts.software_version}`].join(' · ');
}

function showNotes(facts) {
  const notes = ['No outline means no landslide only where the ground was seen: switch on “what was seen”.'];
  if (facts.layers.withheld) notes.unshift(facts.layers.withheld);
  if (facts.layers.unread_blocks) notes.push(`${facts.layers.unread_blocks} parts of the images could not be read.`);
  if (facts.failed_chunks) notes.push(`${facts.failed_chunks} parts of the area failed; see the report.`);
  byId('notes').append(...notes.map((text) => element('p', {className: 'note', textContent: text})));
}

/** Fills the panel; `changed(name)` is called after each change of `choice`. */
export function makePanel(facts, choice, changed) {
  const slider = byId('threshold');
  slider.value = Math.round(choice.threshold * 100);
  slider.addEventListener('input', () => {
    choice.threshold = slider.valueAsNumber / 100;
    update();
    changed('threshold');
  });
  for (const radio of document.getElementsByName('filter')) {
    radio.checked = radio.value === choice.attribute;
    radio.addEventListener('change', () => {
      choice.attribute = radio.value;
      update();
      changed('attribute');
    });
  }
  const more = byId('more');
  more.addEventListener('click', () => {
    const open = byId('panel').classList.toggle('open');
    more.setAttribute('aria-expanded', open);
    more.textContent = open ? 'Show less' : 'Layers and legend';
  });
  byId('layers').append(...layerControls(facts, choice, (name) => {
    update();
    changed(name);
  }));
  const update = () => {
    const shown = tally(facts, choice);
    byId('count').textContent = number.format(shown.count);
    byId('area').textContent = areaText(shown.area);
    byId('threshold-value').textContent = choice.threshold.toFixed(2);
    slider.setAttribute('aria-valuetext', `${choice.threshold.toFixed(2)}, ${shown.count} landslides`);
    byId('threshold-note').textContent = `Outlines are the run’s, drawn at ${facts.threshold.toFixed(2)}: ` +
      (choice.threshold < facts.threshold ? 'below it only the probability layer grows.' : 'the slider hides whole ones.');
    drawHistogram(facts, choice);
  };
  new ResizeObserver(update).observe(byId('histogram'));
  update();
}

function drawHistogram(facts, choice) {
  const canvas = byId('histogram');
  const scale = window.devicePixelRatio;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  if (!width) return;
  Object.assign(canvas, {width, height});
  const at = (step) => tally(facts, {...choice, threshold: step / 100}).count;
  const bars = Array.from({length: 50}, (_, bar) => at(2 * bar) - at(2 * bar + 2));
  bars[49] += at(100);
  const most = Math.max(1, ...bars);
  const pen = canvas.getContext('2d');
  bars.forEach((count, bar) => {
    const tall = count ? Math.max(scale, (count / most) ** 0.6 * height) : 0;
    const middle = (2 * bar + 1) / 100;
    pen.fillStyle = middle >= choice.threshold ? rampColour(middle) : '#2c3942';
    pen.fillRect((bar * width) / 50, height - tall, width / 50 - scale, tall);
  });
}

function layerControls(facts, choice, changed) {
  const toggle = (name, label, ...more) => {
    const box = element('input', {type: 'checkbox', checked: choice.shown[name], id: `show-${name}`});
    const group = element('div', {className: 'layer'}, element('label', {htmlFor: box.id}, box, element('span', {textContent: label})), ...more);
    const open = () => more.forEach((part) => (part.hidden = !box.checked));
    box.addEventListener('change', () => {
      choice.shown[name] = box.checked;
      open();
      changed(name);
    });
    open();
    return group;
  };
  const controls = [];
  if (facts.layers.pre && facts.layers.post) controls.push(toggle('swipe', 'swipe between before and after'));
  const outlines = toggle('outlines', 'landslide outlines', ...changeFilters(facts, choice, changed));
  if (!hasChanges(facts)) outlines.querySelector('label').append(swatch(OUTLINE, 'borderColor'));
  controls.push(outlines);
  if (facts.layers.codes) {
    controls.push(toggle('probability', 'probability of landslide', ramp(), opacitySlider(choice, changed)));
    controls.push(toggle('status', 'what was seen', statusLegend(facts.layers.statuses)));
  }
  return controls;
}

const swatch = (colour, name = 'backgroundColor') => {
  const made = element('i', {className: 'swatch'});
  made.style[name] = colour;
  return made;
};

function changeFilters(facts, choice, changed) {
  if (!hasChanges(facts)) return [];
  const present = Object.keys(facts.counts.probability_mean);
  return [element('ul', {className: 'legend'}, ...present.map((kind) => {
    const [colour, label] = CHANGES[kind] ?? [CHANGES.unknown[0], kind];
    const box = element('input', {type: 'checkbox', checked: choice.changes.includes(kind), value: kind});
    box.addEventListener('change', () => {
      choice.changes = box.checked ? [...choice.changes, kind] : choice.changes.filter((one) => one !== kind);
      changed('changes');
    });
    return element('li', {}, element('label', {}, box, swatch(colour), element('span', {textContent: label})));
  }))];
}

function ramp() {
  const canvas = element('canvas', {width: 100, height: 1, className: 'ramp'});
  const pen = canvas.getContext('2d');
  for (let x = 0; x < 100; x++) {
    pen.fillStyle = rampColour(x / 99);
    pen.fillRect(x, 0, 1, 1);
  }
  const ends = element('div', {className: 'ends'}, ...['0', '0.5', '1'].map((textContent) => element('span', {textContent})));
  return element('div', {}, canvas, ends);
}

function opacitySlider(choice, changed) {
  const slider = element('input', {type: 'range', id: 'opacity', min: 0, max: 100, step: 5, value: choice.opacity * 100});
  slider.addEventListener('input', () => {
    choice.opacity = slider.valueAsNumber / 100;
    changed('opacity');
  });
  return element('div', {className: 'row'}, element('label', {htmlFor: 'opacity', textContent: 'opacity'}), slider);
}

function statusLegend(present) {
  // The bit beside any other status than observed is not told apart.
  const shown = new Set(present.map((value) => (STATUSES.has(value) ? value : value & 0x7f)));
  const rows = [...STATUSES].filter(([value]) => shown.has(value));
  return element('ul', {className: 'legend'}, ...rows.map(([, [colour, alpha, textContent]]) =>
    element('li', {}, swatch(rgba(colour, alpha)), element('span', {textContent}))));
}
