// What is drawn and how: colours, sources and layers of both maps. Nothing here touches the page.

export const INK = {land: '#11181d', area: '#18222a', rim: '#5b7080', grid: '#1f2a32', label: '#6f8492'};

// Colours keep their order in grey and for every kind of colour blindness.
// matplotlib's plasma from 0.25 on (van der Walt and Smith, CC0).
const PLASMA = [[0, '#6300a7'], [0.25, '#9c179e'], [0.45, '#c5407e'], [0.65, '#e66c5c'], [0.85, '#fca636'], [1, '#f0f921']];

// IBM's palette for designers, the set of Okabe and Ito beside it.
export const CHANGES = {
  new: ['#ffb000', 'new'],
  reactivated: ['#ff5d8f', 'reactivated'],
  'pre-existing': ['#6ea8ff', 'there before'],
  unknown: ['#c9d3da', 'not known: not seen before the event'],
};
export const OUTLINE = '#ffd84d';
const CONTEXT_INCOMPLETE = 0x80;
const OUTSIDE = 8;

// Value of `status`: colour, opacity, what it says.
export const STATUSES = new Map([
  [1, ['#4fb6a4', 0, 'observed']],
  [CONTEXT_INCOMPLETE | 1, ['#4fb6a4', 0.35, 'observed, but the model lacked context']],
  [2, ['#f4f7f9', 0.85, 'cloud']],
  [3, ['#3b4a6b', 0.85, 'shadow']],
  [4, ['#c3b8a5', 0.75, 'heavy haze']],
  [10, ['#ddd4c4', 0.45, 'light haze']],
  [11, ['#4a4f55', 0.8, 'unusable']],
  [5, ['#a9dcff', 0.8, 'snow']],
  [6, ['#7d8b95', 0.75, 'no data in the scene']],
  [7, ['#56636d', 0.8, 'not acquired']],
  [9, ['#e0513c', 0.85, 'failed']],
  [0, ['#8f5fbf', 0.75, 'not computed']],
  [OUTSIDE, [INK.land, 0, 'outside the mapped area']],
]);

export const rgba = (hex, alpha) =>
  `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(', ')}, ${alpha})`;

/** Colour of a probability, 0 to 1. */
export function rampColour(probability) {
  const upper = Math.max(1, PLASMA.findIndex(([at]) => at >= probability));
  const [[low, from], [high, to]] = [PLASMA[upper - 1], PLASMA[upper]];
  const share = Math.min(1, Math.max(0, (probability - low) / (high - low)));
  const mix = [1, 3, 5].map((at) => {
    const [a, b] = [from, to].map((hex) => parseInt(hex.slice(at, at + 2), 16));
    return Math.round(a + (b - a) * share).toString(16).padStart(2, '0');
  });
  return `#${mix.join('')}`;
}

/**
 * Colours of the probability layer. A code of 1/200 is the higher byte of what MapLibre takes for an elevation,
 * the status the lower, so that a stop may lie just below a code: the edge is sharp, and it is drawn on the GPU.
 */
export function probabilityColours(threshold) {
  const least = Math.ceil(threshold * 200 - 1e-9);
  const clear = 'rgba(0, 0, 0, 0)';
  const stops = least > 0 ? [[0, clear], [least * 256 - 1, clear]] : [];
  for (let code = least; code < 200; code += 10) stops.push([code * 256, rampColour(code / 200)]);
  stops.push([200 * 256, rampColour(1)], [201 * 256 - 1, rampColour(1)], [201 * 256, clear], [255 * 256, clear]);
  return ['interpolate', ['linear'], ['elevation'], ...stops.flat()];
}

/** Colours of the status layer: a step a value. */
export function statusColours() {
  const stops = [];
  for (let value = 0; value < 256; value++) {
    // The bit is told only of what was observed.
    const [colour, alpha] = STATUSES.get(value) ?? STATUSES.get(value & ~CONTEXT_INCOMPLETE) ?? STATUSES.get(0);
    stops.push([value * 256, rgba(colour, alpha)], [value * 256 + 255, rgba(colour, alpha)]);
  }
  return ['interpolate', ['linear'], ['elevation'], ...stops.flat()];
}

/** What keeps a polygon in sight. */
export function polygonFilter({threshold, attribute, changes}) {
  const above = ['>=', ['coalesce', ['get', attribute], 0], threshold];
  return changes ? ['all', above, ['in', ['get', 'change'], ['literal', changes]]] : above;
}

const kinds = (facts) => Object.keys(facts.counts.probability_mean);
export const hasChanges = (facts) => kinds(facts).some((kind) => kind in CHANGES);

function outlineColour(facts) {
  if (!hasChanges(facts)) return OUTLINE;
  const cases = Object.entries(CHANGES).flatMap(([kind, [colour]]) => [kind, colour]);
  return ['match', ['to-string', ['get', 'change']], ...cases, CHANGES.unknown[0]];
}

const byZoom = (...stops) => ['interpolate', ['linear'], ['zoom'], ...stops];

/** Style of the map after the event, or, with 'pre', of the one before it that is laid over a part of it. */
export function mapStyle(facts, phase, choice) {
  const {layers, bounds} = facts;
  const raster = {tileSize: 512, minzoom: layers.min_zoom, maxzoom: layers.max_zoom, bounds};
  const codes = {type: 'raster-dem', tiles: ['run://codes/{z}/{x}/{y}'], encoding: 'custom', baseShift: 0, ...raster};
  const sources = {
    aoi: {type: 'geojson', data: {type: 'Feature', properties: {}, geometry: facts.aoi}},
    graticule: {type: 'geojson', data: {type: 'FeatureCollection', features: []}},
    landslides: {type: 'vector', tiles: ['run://landslides/{z}/{x}/{y}'], minzoom: 6, maxzoom: 14, bounds},
  };
  const drawn = [
    {id: 'land', type: 'background', paint: {'background-color': INK.land}},
    {id: 'area', type: 'fill', source: 'aoi', paint: {'fill-color': INK.area}},
    {id: 'graticule', type: 'line', source: 'graticule', paint: {'line-color': INK.grid, 'line-width': 1}},
  ];
  if (layers[phase]) {
    sources.image = {type: 'raster', tiles: [`run://${phase}/{z}/{x}/{y}`], ...raster};
    drawn.push({id: 'image', type: 'raster', source: 'image', paint: {'raster-fade-duration': 0}});
  }
  if (layers.codes && phase === 'post') {
    sources.probability = {...codes, redFactor: 256, greenFactor: 1, blueFactor: 0};
    sources.status = {...codes, redFactor: 0, greenFactor: 256, blueFactor: 1};
    const paint = (colours, opacity) => ({'color-relief-color': colours, 'color-relief-opacity': opacity, resampling: 'nearest'});
    const shown = (layer) => ({visibility: choice.shown[layer] ? 'visible' : 'none'});
    drawn.push(
      {id: 'status', type: 'color-relief', source: 'status', layout: shown('status'), paint: paint(statusColours(), 0.85)},
      {id: 'probability', type: 'color-relief', source: 'probability', layout: shown('probability'),
        paint: paint(probabilityColours(choice.threshold), choice.opacity)},
    );
  }
  const polygons = {source: 'landslides', 'source-layer': 'landslides', filter: polygonFilter(choice)};
  const colour = outlineColour(facts);
  drawn.push(
    {id: 'rim', type: 'line', source: 'aoi', paint: {'line-color': INK.rim, 'line-width': 1, 'line-dasharray': [4, 3]}},
    {id: 'fill', type: 'fill', ...polygons, paint: {'fill-color': colour, 'fill-opacity': byZoom(9, 0.9, 12, 0.12, 14, 0)}},
    {id: 'casing', type: 'line', ...polygons, minzoom: 11,
      paint: {'line-color': '#000', 'line-opacity': 0.55, 'line-width': byZoom(11, 1.2, 14, 3, 17, 5)}},
    {id: 'outline', type: 'line', ...polygons, layout: {'line-join': 'round'},
      paint: {'line-color': colour, 'line-width': byZoom(8, 0.4, 11, 0.7, 14, 1.5, 17, 2.4)}},
    {id: 'selected', type: 'line', source: 'landslides', 'source-layer': 'landslides', filter: ['==', ['get', 'id'], ''],
      layout: {'line-join': 'round'}, paint: {'line-color': '#fff', 'line-width': byZoom(10, 2, 14, 3.5)}},
  );
  return {version: 8, sources, layers: drawn};
}
