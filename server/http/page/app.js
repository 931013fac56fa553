// The live page. Everything that comes from data reaches the document through textContent only.
'use strict';

const byId = (id) => document.getElementById(id);
const kRefreshMillis = 2000;
const kPageSize = 50;
const kMaxSilenceMillis = 30000;  // the server says something every 10 s; a cut line says nothing
const kMaxEvents = 300;

const kStateClass = {
  VALIDATING: 'busy', QUEUED: '', STARTING: 'busy', RUNNING: 'busy', PAUSING: 'warn', PAUSED: 'warn', RECOVERING: 'warn',
  CANCELLING: 'warn', SUCCEEDED: 'good', FAILED: 'bad', CANCELLED: '', READY: 'good', DRAINING: 'warn', LOST: 'bad',
};
const kEnded = ['SUCCEEDED', 'FAILED', 'CANCELLED'];

let token = sessionStorage.getItem('sbora-token') || '';
let listTimer = 0;
let shownPages = 1;
let watching = null;  // AbortController of the open watch
let current = null;   // what the job view shows
let project = 'default';
let serverAddress = '';

class ApiError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function headers() { return token ? {Authorization: 'Bearer ' + token} : {}; }

async function get(path) {
  const response = await fetch(path, {headers: headers(), cache: 'no-store'});
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, body.error ? body.error.message : response.statusText);
  return body;
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const leaf = (name) => (name || '').split('/').pop();
const shortState = (state) => (state || '').replace(/^STATE_/, '');
const number = (value) => Number(value || 0);

function formatCount(value) { return number(value).toLocaleString('en'); }
function formatLoss(value) { return value ? value.toFixed(4) : '–'; }
function formatSpeed(value) { return value ? formatCount(Math.round(value)) : '–'; }

function formatDuration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return '–';
  const s = Math.round(seconds);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
  return Math.floor(s / 3600) + ' h ' + Math.floor((s % 3600) / 60) + ' min';
}
/** The time of day; of another day, the date too. */
function formatMoment(time) {
  if (!time) return '';
  const moment = new Date(time);
  const clock = moment.toLocaleTimeString('en-GB');
  return moment.toDateString() === new Date().toDateString() ? clock : moment.toLocaleDateString('en-CA') + ' ' + clock;
}
function formatAge(time) {
  if (!time) return '–';
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (seconds < 5) return 'just now';
  if (seconds < 60) return Math.round(seconds) + ' s ago';
  if (seconds < 3600) return Math.round(seconds / 60) + ' min ago';
  if (seconds < 86400) return Math.round(seconds / 3600) + ' h ago';
  return new Date(time).toLocaleDateString();
}

function show(view) {
  for (const name of ['auth', 'list', 'job', 'missing']) byId('view-' + name).hidden = name !== view;
}

/** The client as it reaches this server and the project shown. */
function clientCommand() {
  return 'sbora-client --server ' + serverAddress + (project === 'default' ? '' : ' --project ' + project);
}

function setConnection(kind, text) {
  const node = byId('connection');
  node.className = 'connection ' + kind;
  node.textContent = text;
}

function stateBadge(state) {
  const short = shortState(state);
  return element('span', 'state ' + (kStateClass[short] || ''), short.toLowerCase());
}

// Answers true when the error was one of the token.
function askForToken(error) {
  if (!(error instanceof ApiError) || (error.status !== 401 && error.status !== 403)) return false;
  stopWatch();
  clearTimeout(listTimer);
  byId('auth-error').textContent = token ? error.message : '';
  show('auth');
  setConnection('', 'token needed');
  byId('token').focus();
  return true;
}

// ---------------------------------------------------------------------------------------------- list

function progressOf(progress, state) {
  const total = number(progress.totalSteps);
  const step = number(progress.step);
  return {step, total, share: state === 'SUCCEEDED' ? 1 : total > 0 ? Math.min(1, step / total) : 0};
}

function formatStep(step, total) { return formatCount(step) + (total ? ' / ' + formatCount(total) : ''); }

/** "sbora_fa", or "sbora_fa+nf4" on a quantised base: as sbora-client writes it. */
function methodOf(spec) {
  const method = ((spec.adapter || {}).method || '').replace(/^METHOD_/, '').toLowerCase();
  return method + (spec.quantization === 'QUANTIZATION_NF4' ? '+nf4' : '');
}

/** A cell that carries its column's name: a narrow window has no table head. */
function cell(label, className, ...content) {
  const node = element('td', className);
  node.dataset.label = label;
  node.append(...content);
  return node;
}

function jobRow(job) {
  const row = element('tr');
  const progress = job.progress || {};
  const link = element('a', '', leaf(job.name));
  link.href = '#/' + job.name;
  const name = cell('Job', 'name', link);
  if (job.displayName) name.append(element('span', 'sub', job.displayName));
  const state = shortState(job.state);
  const {step, total, share} = progressOf(progress, state);
  const wrap = element('div', 'progress');
  const bar = element('div', 'bar');
  const fill = element('div', 'fill');
  fill.style.width = (share * 100).toFixed(1) + '%';
  bar.append(fill);
  const phase = progress.phase && !kEnded.includes(state) ? progress.phase : '–';
  wrap.append(bar, element('span', '', step || total ? formatStep(step, total) : phase));
  const spec = job.spec || {};
  const method = methodOf(spec) + (spec.adapter ? ', r ' + number(spec.adapter.rank) : '');
  const speed = state === 'RUNNING' ? formatSpeed(number(progress.tokensPerSecond)) : '–';
  row.append(name, cell('State', '', stateBadge(job.state)), cell('Model', '', leaf(spec.model)), cell('Method', 'short', method),
    cell('Progress', 'wide', wrap), cell('Loss', 'num', formatLoss(number(progress.loss))), cell('Tokens/s', 'num', speed),
    cell('Created', 'short', formatAge(job.createTime)));
  return row;
}

function workerRow(worker) {
  const row = element('tr');
  const name = cell('Worker', 'name', leaf(worker.name));
  if (worker.host && worker.host !== leaf(worker.name)) name.append(element('span', 'sub', worker.host));
  row.append(name, cell('State', '', stateBadge(worker.state)),
    cell('Slots', 'num', number(worker.slotsUsed) + ' / ' + number(worker.slotsTotal)),
    cell('GPUs', '', (worker.gpus || []).join(', ') || 'none'), cell('Version', '', worker.version || '–'),
    cell('Holds', 'name', (worker.leases || []).map(leaf).join(', ') || '–'), cell('Last seen', 'short', formatAge(worker.lastSeenTime)));
  return row;
}

function fillTiles(summary, workers) {
  const ready = workers.filter((w) => shortState(w.state) === 'READY').length;
  const states = summary.states || {};
  const count = (...names) => names.reduce((sum, name) => sum + number(states[name]), 0);
  const tiles = [
    ['Running', count('RUNNING', 'STARTING', 'PAUSING', 'CANCELLING', 'RECOVERING')], ['Queued', count('QUEUED', 'VALIDATING')],
    ['Paused', count('PAUSED')], ['Succeeded', count('SUCCEEDED')], ['Failed', count('FAILED')], ['Workers ready', ready],
  ];
  byId('tiles').replaceChildren(...tiles.map(([label, value]) => {
    const tile = element('div', 'tile');
    tile.append(element('b', '', formatCount(value)), element('span', '', label));
    return tile;
  }));
}

async function loadJobs() {
  const jobs = [];
  let next = '';
  for (let page = 0; page < shownPages; ++page) {
    const answer = await get('/api/jobs?project=' + project + '&pageSize=' + kPageSize + (next ? '&pageToken=' + encodeURIComponent(next) : ''));
    jobs.push(...(answer.fineTuningJobs || []));
    next = answer.nextPageToken || '';
    if (!next) break;
  }
  byId('more').hidden = !next;
  return jobs;
}

/** New rows in place of the old; the keyboard's focus stays on the link it was on. */
function replaceRows(table, rows) {
  const focused = table.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
  table.tBodies[0].replaceChildren(...rows);
  table.hidden = rows.length === 0;
  const link = focused && [...table.querySelectorAll('a')].find((a) => a.getAttribute('href') === focused);
  if (link) link.focus({preventScroll: true});
}

async function refreshList() {
  clearTimeout(listTimer);
  try {
    if (!serverAddress) await loadServer();
    const [jobs, summary, workers] = await Promise.all([loadJobs(), get('/api/summary?project=' + project), get('/api/workers')]);
    if (isJobPath(currentPath())) return;
    show('list');
    setConnection('live', 'live');
    byId('list-error').hidden = true;
    replaceRows(byId('jobs'), jobs.map(jobRow));
    byId('jobs-empty').hidden = jobs.length !== 0;
    byId('submit-command').textContent = clientCommand() + ' submit --model NAME --dataset NAME --method sbora_fa';
    const workerList = workers.workers || [];
    replaceRows(byId('workers'), workerList.map(workerRow));
    byId('workers-empty').hidden = workerList.length !== 0;
    fillTiles(summary, workerList);
  } catch (error) {
    if (askForToken(error)) return;
    show('list');
    setConnection('lost', 'no connection, trying again');
    byId('list-error').textContent = 'The server does not answer (' + error.message + ').';
    byId('list-error').hidden = false;
  }
  listTimer = setTimeout(refreshList, kRefreshMillis);
}

// ---------------------------------------------------------------------------------------------- one job

function fact(label, value, className) {
  const box = element('div', className);
  box.append(element('dt', '', label), element('dd', '', value === '' || value === undefined ? '–' : String(value)));
  return box;
}

function renderJob(job) {
  current.job = job;
  const state = shortState(job.state);
  document.title = leaf(job.name) + ' · sbora';
  byId('job-title').textContent = job.displayName || leaf(job.name);
  byId('job-state').className = 'state ' + (kStateClass[state] || '');
  byId('job-state').textContent = state.toLowerCase();
  renderProgress();
  const failure = byId('job-failure');
  failure.hidden = !(job.failure && job.failure.message);
  failure.className = 'failure' + (state === 'FAILED' ? '' : ' mild');
  if (!failure.hidden) {
    failure.textContent = (state === 'FAILED' ? '' : 'Last attempt: ') + job.failure.message + (job.failure.reason ? ' (' + job.failure.reason + ')' : '');
  }
  renderFacts();
  byId('pull').hidden = !job.adapter;
  if (job.adapter) {
    byId('pull-command').textContent = clientCommand() + ' pull ' + leaf(job.adapter) + ' -o ' + leaf(job.name);
  }
}

function renderFacts() {
  const job = current.job;
  const spec = job.spec || {};
  const adapter = spec.adapter || {};
  const training = spec.training || {};
  const progress = shownProgress();
  const end = job.endTime ? Date.parse(job.endTime) : Date.now();
  byId('job-facts').replaceChildren(
    fact('Name', job.name, 'wide'), fact('Model', leaf(spec.model)), fact('Data set', spec.dataset ? leaf(spec.dataset) : (spec.datasets || []).map(leaf).join(', ')),
    fact('Method', methodOf(spec) + ', r ' + number(adapter.rank) + ', α ' + number(adapter.alpha)),
    fact('Target modules', (adapter.targetModules || []).join(', ')), fact('Trainable parameters', formatCount(job.trainableParameters)),
    fact('Peak learning rate', training.learningRate), fact('Batch size', training.batchSize),
    fact('Attempt', number(job.attempt) === 0 ? '' : number(job.attempt) + (number(job.recoveryCount) ? ', recovered ' + number(job.recoveryCount) + '×' : '')),
    fact('Worker', [job.worker, job.resolvedDevice].filter(Boolean).join(', ')),
    fact('Created', formatMoment(job.createTime)),
    fact('Run time', job.startTime ? formatDuration((end - Date.parse(job.startTime)) / 1000) : ''),
    fact('Validation loss', formatLoss(number(progress.validationLoss))), fact('Trained tokens', number(progress.trainedTokens) ? formatCount(progress.trainedTokens) : ''));
}

/** What the job says of itself; where it says nothing, as after a failure, the newest point of its curve does. */
function shownProgress() {
  const told = current.job.progress || {};
  const newest = current.newest;
  if (!newest) return told;
  const training = (current.job.spec || {}).training || {};
  return {...told, step: number(told.step) || newest.step, loss: number(told.loss) || newest.loss,
    trainedTokens: number(told.trainedTokens) || newest.trainedTokens, totalSteps: number(told.totalSteps) || training.maxSteps};
}

function renderProgress() {
  const state = shortState(current.job.state);
  const progress = shownProgress();
  const {step, total, share} = progressOf(progress, state);
  byId('job-progress-row').hidden = kEnded.includes(state) && step === 0;
  byId('job-fill').style.width = (share * 100).toFixed(1) + '%';
  const parts = [];
  if (step || total) parts.push('step ' + formatStep(step, total));
  if (number(progress.loss)) parts.push('loss ' + formatLoss(number(progress.loss)));
  if (state === 'RUNNING' && number(progress.tokensPerSecond)) parts.push(formatSpeed(number(progress.tokensPerSecond)) + ' tokens/s');
  if (state === 'RUNNING' && number(progress.remainingSeconds)) parts.push(formatDuration(number(progress.remainingSeconds)) + ' left');
  if (!kEnded.includes(state) && progress.phase) parts.push(progress.phase);
  byId('job-progress').textContent = parts.join(' · ') || (state === 'QUEUED' ? 'waiting for a free slot' : '');
}

function scheduleDraw() {
  if (current.drawPending) return;
  current.drawPending = true;
  requestAnimationFrame(drawCharts);
}

function addEvent(event) {
  const sequence = number(event.sequence);
  if (sequence && current.events.has(sequence)) return;
  current.events.add(sequence);
  const level = {LEVEL_WARN: 'warn', LEVEL_ERROR: 'bad'}[event.level] || '';
  const item = element('li', level);
  const time = element('time', '', formatMoment(event.time));
  if (event.time) time.dateTime = event.time;
  item.append(time, element('span', 'type', event.type), element('span', 'message', event.message));
  const list = byId('events');
  list.prepend(item);
  while (list.childElementCount > kMaxEvents) list.lastElementChild.remove();
  byId('events-empty').hidden = true;
}

function addMetric(point) {
  current.metrics.set(number(point.step), point);
  if (!current.newest || number(point.step) >= number(current.newest.step)) current.newest = point;
}

function stopWatch() {
  if (watching) watching.abort();
  watching = null;
}

function takeMessage(kind, payload) {
  if (kind === 'job') renderJob(payload);
  if (kind === 'event') addEvent(payload);
  if (kind === 'metric') { addMetric(payload); scheduleDraw(); }
  if (kind === 'progress') { current.job.progress = payload; renderProgress(); renderFacts(); }
}

// Server-sent events through fetch: EventSource cannot send the token.
async function readStream(path, abort) {
  const response = await fetch(path, {headers: headers(), signal: abort.signal, cache: 'no-store'});
  if (!response.ok) throw new ApiError(response.status, response.statusText);
  setConnection('live', 'live');
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const silence = setTimeout(() => reader.cancel(), kMaxSilenceMillis);
    const {value, done} = await reader.read().finally(() => clearTimeout(silence));
    if (done || watching !== abort) return;  // what was read before the abort is of another job than the one shown now
    rest += value;
    const blocks = rest.split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split('\n')) {
        const colon = line.indexOf(': ');
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
      }
      if (fields.id) current.sequence = Math.max(current.sequence, number(fields.id));
      if (fields.data) takeMessage(fields.event, JSON.parse(fields.data));
    }
  }
}

async function watchJob(name) {
  const abort = new AbortController();
  watching = abort;
  let wait = 500;
  while (watching === abort) {
    try {
      await readStream('/api/jobs/' + name + '/watch?after=' + current.sequence, abort);
      if (watching !== abort) return;
      wait = 500;
      const job = await get('/api/jobs/' + name);
      if (watching !== abort) return;
      renderJob(job);
      if (kEnded.includes(shortState(current.job.state))) { setConnection('', 'ended'); return; }
    } catch (error) {
      if (watching !== abort || askForToken(error)) return;
      setConnection('lost', 'no connection, trying again');
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 8000);
  }
}

async function openJob(name) {
  stopWatch();
  clearTimeout(listTimer);
  current = {name, job: {}, metrics: new Map(), newest: null, events: new Set(), sequence: 0, drawPending: false};
  const mine = current;
  try {
    if (!serverAddress) await loadServer();
    const job = await get('/api/jobs/' + name);
    // Events first: the stream goes on from their sequence, so no point may fall between the two reads.
    const events = await get('/api/jobs/' + name + '/events');
    const metrics = await get('/api/jobs/' + name + '/metrics');
    if (current !== mine) return;
    show('job');
    byId('events').replaceChildren();
    byId('events-empty').hidden = false;
    for (const point of metrics.metrics || []) addMetric(point);
    renderJob(job);
    makeCharts();
    for (const event of events.events || []) addEvent(event);
    current.sequence = number(events.sequence);
    drawCharts();
    watchJob(name);
  } catch (error) {
    if (current !== mine || askForToken(error)) return;
    show('missing');
    byId('missing-title').textContent = error.status === 404 ? 'No such job' : 'The server does not answer';
    byId('missing-text').textContent = error.message;
    setConnection(error.status === 404 ? 'live' : 'lost', error.status === 404 ? 'live' : 'no connection, trying again');
    if (error.status !== 404) setTimeout(() => { if (current === mine) openJob(name); }, kRefreshMillis);
  }
}

// ---------------------------------------------------------------------------------------------- start

async function loadServer() {
  const info = await get('/api/server');
  serverAddress = info.address;
  byId('server').textContent = 'version ' + info.version + ' · ' + info.address;
  byId('join-command').textContent = 'sbora-worker --server ' + info.address;
}

// The fragment is '', 'projects/{p}' or a job's name.
function currentPath() { return location.hash.replace(/^#\/?/, ''); }
function isJobPath(path) { return /^projects\/[a-z0-9-]+\/fineTuningJobs\/[a-z0-9-]+$/.test(path); }

function route() {
  const path = currentPath();
  const inProject = path.match(/^projects\/([a-z0-9-]+)/);
  project = inProject ? inProject[1] : 'default';
  byId('project').value = project;
  for (const link of document.querySelectorAll('a.all-jobs')) link.href = '#/projects/' + project;
  if (isJobPath(path)) {
    openJob(path);
    return;
  }
  stopWatch();
  current = null;
  shownPages = 1;
  document.title = 'sbora';
  refreshList();
}

byId('auth-form').addEventListener('submit', (event) => {
  event.preventDefault();
  token = byId('token').value.trim();
  sessionStorage.setItem('sbora-token', token);
  byId('token').value = '';
  route();
});
byId('project-form').addEventListener('submit', (event) => {
  event.preventDefault();
  location.hash = '#/projects/' + byId('project').value;
});
byId('more').addEventListener('click', () => { ++shownPages; refreshList(); });
byId('pull-copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText(byId('pull-command').textContent);
  byId('pull-copy').textContent = 'Copied';
  setTimeout(() => { byId('pull-copy').textContent = 'Copy'; }, 1500);
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  if (!current || byId('view-job').hidden) return;
  makeCharts();
  drawCharts();
});
addEventListener('hashchange', route);
route();
