// Copies what the map page needs from node_modules into the package, byte by byte, with every licence.
// Run: npm ci --ignore-scripts && npm run vendor
import {copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const modules = `${here}node_modules/`;
const vendor = `${here}../src/coseis/web/vendor/`;
mkdirSync(vendor, {recursive: true});

const files = {
  'maplibre-gl/dist/maplibre-gl.mjs': 'maplibre-gl.mjs',
  'maplibre-gl/dist/maplibre-gl-worker.mjs': 'maplibre-gl-worker.mjs',
  'maplibre-gl/dist/maplibre-gl.css': 'maplibre-gl.css',
  'pmtiles/dist/pmtiles.js': 'pmtiles.js',
  '@fontsource-variable/inter/files/inter-latin-wght-normal.woff2': 'inter.woff2',
};
for (const [from, to] of Object.entries(files)) copyFileSync(modules + from, vendor + to);

// MapLibre and PMTiles are bundles: they hold code of the packages that they depend on.
const lock = JSON.parse(readFileSync(`${here}package-lock.json`));
const parts = [];
for (const [path, {version, license}] of Object.entries(lock.packages)) {
  const name = path.replace(/^.*node_modules\//, '');
  if (!name || name.startsWith('@types/')) continue;
  const folder = `${here}${path}`;
  const text = licence(folder, `${here}licences/${name}.txt`);
  if (!text) throw new Error(`${name} has no licence text; put it in licences/${name}.txt`);
  parts.push(`${name} ${version} (${license})\n\n${text.replaceAll('\r\n', '\n').trim()}`);
}
writeFileSync(`${vendor}LICENCES.txt`, parts.join(`\n\n${'-'.repeat(78)}\n\n`) + '\n');

function licence(folder, own) {
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  if (file) return readFileSync(`${folder}/${file}`, 'utf8');
  if (existsSync(own)) return readFileSync(own, 'utf8');
  const readme = readFileSync(`${folder}/README.md`, 'utf8');
  return readme.includes('## License') ? readme.slice(readme.indexOf('## License')) : '';
}
