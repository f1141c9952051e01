// The map page: map.json goes in, two maps, a panel and a card of attributes come out.
import {Map as WebMap, NavigationControl, ScaleControl, addProtocol} from './vendor/maplibre-gl.mjs';
import {showDetails} from './details.mjs';
import {drawGraticule} from './graticule.mjs';
import {byId, datesText, makePanel, showFacts} from './panel.mjs';
import {hasChanges, mapStyle, polygonFilter, probabilityColours} from './style.mjs';
import {makeSizes} from './sizes.mjs';
import {makeSwipe} from './swipe.mjs';

const POLYGONS = ['fill', 'casing', 'outline'];
const CLICK_PX = 6;

/** Tiles of the run's archives; a place without one is empty, not an error. */
function serveTiles() {
  const archives = new globalThis.Map();
  addProtocol('run', async ({url}, {signal}) => {
    const [, name, z, x, y] = url.match(/^run:\/\/(\w+)\/(\d+)\/(\d+)\/(\d+)$/);
    if (!archives.has(name)) {
      archives.set(name, new globalThis.pmtiles.PMTiles(new URL(`${name}.pmtiles`, document.baseURI).href));
    }
    const tile = await archives.get(name).getZxy(+z, +x, +y, signal);
    return {data: tile?.data ?? null};
  });
}

function makeMap(container, facts, phase, choice, options) {
  const [west, south, east, north] = facts.bounds;
  return new WebMap({
    container,
    style: mapStyle(facts, phase, choice),
    bounds: [[west, south], [east, north]],
    fitBoundsOptions: {padding: 24},
    minZoom: 4,
    maxZoom: 19,
    maxPitch: 0,
    dragRotate: false,
    pitchWithRotate: false,
    touchPitch: false,
    rollEnabled: false,
    attributionControl: false,
    fadeDuration: 0,
    ...options,
  });
}

function start(facts) {
  const {layers} = facts;
  const hasImages = layers.pre || layers.post;
  const choice = {
    threshold: Math.round(facts.threshold * 100) / 100,
    attribute: 'probability_mean',
    opacity: hasImages ? 0.7 : 1,
    // What was there before is no landslide of the event: it is shown when it is asked for.
    changes: hasChanges(facts)
      ? Object.keys(facts.counts.probability_mean).filter((kind) => kind !== 'pre-existing')
      : null,
    // Without images the probability is the picture.
    shown: {swipe: true, outlines: true, probability: !hasImages, status: false},
  };
  serveTiles();
  showFacts(facts);
  const after = makeMap('after', facts, 'post', choice, {});
  after.touchZoomRotate.disableRotation();
  after.keyboard.disableRotation();
  after.addControl(new ScaleControl({maxWidth: 110}), 'bottom-right');
  after.addControl(new NavigationControl({showCompass: false}), 'bottom-right');
  after.getCanvas().setAttribute('aria-label', 'Map of landslides: arrow keys move it, plus and minus zoom, Enter selects the landslide in the middle');
  const maps = [after];
  const both = layers.pre && layers.post;
  if (both) {
    const dates = Object.fromEntries(Object.entries(facts.scene_dates).map(([phase, pair]) => [phase, datesText(pair)]));
    const before = makeMap('before', facts, 'pre', choice, {interactive: false});
    maps.push(before);
    makeSwipe(after, before, dates);
  }
  // A style that is there stays ready, also while its tiles load, when isStyleLoaded() says no.
  const ready = maps.map((map) => new Promise((resolve) => map.once('style.load', () => resolve(map))));
  const everywhere = (action) => ready.forEach((map) => map.then(action));
  const onAfter = (action) => ready[0].then(action);
  const visible = (map, id, shown) => map.setLayoutProperty(id, 'visibility', shown ? 'visible' : 'none');

  const actions = {
    swipe: () => {
      byId('swipe').hidden = byId('before').hidden = !choice.shown.swipe;
    },
    outlines: () => everywhere((map) => POLYGONS.forEach((id) => visible(map, id, choice.shown.outlines))),
    probability: () => onAfter((map) => visible(map, 'probability', choice.shown.probability)),
    status: () => onAfter((map) => visible(map, 'status', choice.shown.status)),
    opacity: () => onAfter((map) => map.setPaintProperty('probability', 'color-relief-opacity', choice.opacity)),
    threshold: () => {
      filter();
      if (!layers.codes) return;
      const colours = probabilityColours(choice.threshold);
      onAfter((map) => map.setPaintProperty('probability', 'color-relief-color', colours));
    },
    attribute: () => filter(),
    changes: () => filter(),
  };
  const filter = () => everywhere((map) => POLYGONS.forEach((id) => map.setFilter(id, polygonFilter(choice))));
  makePanel(facts, choice, (name) => actions[name]());
  makeSizes(facts);

  const choose = (found) => {
    everywhere((map) => map.setFilter('selected', ['==', ['get', 'id'], found?.properties.id ?? '']));
    showDetails(found?.properties, () => choose(undefined));
  };
  const select = (point) => {
    const box = [[point.x - CLICK_PX, point.y - CLICK_PX], [point.x + CLICK_PX, point.y + CLICK_PX]];
    const exact = after.queryRenderedFeatures(point, {layers: ['fill']});
    const [found] = exact.length ? exact : after.queryRenderedFeatures(box, {layers: ['fill', 'outline']});
    choose(found);
    const [card, stage] = [byId('details'), byId('stage')].map((part) => part.getBoundingClientRect());
    const [x, y] = [point.x + stage.left, point.y + stage.top];
    const covered = x > card.left - 40 && x < card.right && y > card.top - 40 && y < card.bottom;
    if (found && covered) after.easeTo({center: after.unproject(point), duration: 300});
  };
  after.on('click', ({point}) => select(point));
  after.on('mousemove', ({point}) => {
    const over = after.queryRenderedFeatures(point, {layers: ['fill']}).length;
    after.getCanvas().style.cursor = over ? 'pointer' : '';
  });
  after.getCanvas().addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault(); // or it would press the button of the card, which takes the focus
    select(after.project(after.getCenter()));
  });
  after.on('load', () => drawGraticule(maps, !hasImages));
  // For tests: what is drawn can be asked for.
  globalThis.coseisMaps = {after, before: maps[1]};
  document.documentElement.dataset.ready = '';
}

try {
  const answer = await fetch('map.json', {cache: 'no-cache'});
  if (!answer.ok) throw new Error(`map.json: ${answer.status}`);
  const facts = await answer.json();
  byId('trouble').hidden = true;
  start(facts);
} catch (error) {
  byId('trouble').hidden = false;
  byId('trouble').textContent = `The map cannot be shown: ${error.message}`;
  throw error;
}
