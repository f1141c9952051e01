// Meridians and parallels of a round spacing, drawn where there is no image; labels at the rim where asked for.
import {byId, element} from './panel.mjs';

const STEPS = [10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const LINES = 5;

function spacing(span) {
  return STEPS.findLast((step) => span / step <= LINES * 2 && span / step >= LINES / 2) ?? STEPS.at(span > 1 ? 0 : -1);
}

function places(low, high, step) {
  const first = Math.ceil(low / step);
  return Array.from({length: Math.max(0, Math.floor(high / step) - first + 1)}, (_, number) => (first + number) * step);
}

const text = (degrees, step, letters) => {
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return `${Math.abs(degrees).toFixed(digits)}°${degrees < 0 ? letters[0] : letters[1]}`;
};

export function drawGraticule(maps, labelled) {
  const [main] = maps;
  const draw = () => {
    const bounds = main.getBounds();
    const [west, east, south, north] = [bounds.getWest(), bounds.getEast(), bounds.getSouth(), bounds.getNorth()];
    const step = spacing(Math.max(east - west, north - south));
    const [columns, rows] = [places(west, east, step), places(south, north, step)];
    const line = (coordinates) => ({type: 'Feature', properties: {}, geometry: {type: 'LineString', coordinates}});
    const features = [
      ...columns.map((x) => line([[x, south], [x, north]])),
      ...rows.map((y) => line([[west, y], [east, y]])),
    ];
    maps.forEach((map) => map.getSource('graticule')?.setData({type: 'FeatureCollection', features}));
    if (!labelled) return;
    const tick = (axis, place, textContent) => {
      const made = element('span', {className: axis, textContent});
      made.style[axis === 'x' ? 'left' : 'top'] = `${place}px`;
      return made;
    };
    byId('ticks').replaceChildren(
      ...columns.map((x) => tick('x', main.project([x, south]).x, text(x, step, 'WE'))),
      ...rows.map((y) => tick('y', main.project([west, y]).y, text(y, step, 'SN'))),
    );
  };
  main.on('move', draw);
  main.on('resize', draw);
  draw();
}
