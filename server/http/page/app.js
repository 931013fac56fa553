// The live page. Everything that comes from data reaches the document through textContent only.
'use strict';

const byId = (id) => document.getElementById(id);
const kRefreshMillis = 2000;
const kPageSize = 50;
const kMaxPoints = 2000;
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
let charts = null;
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

function formatNumber(value, digits) {
  if (!Number.isFinite(value)) return '–';
  return value.toLocaleString('en', {maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 2)});
}
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

function progressOf(job) {
  const progress = job.progress || {};
  const total = number(progress.totalSteps);
  const step = number(progress.step);
  const ended = shortState(job.state) === 'SUCCEEDED';
  return {step, total, share: ended ? 1 : total > 0 ? Math.min(1, step / total) : 0};
}

/** "sbora_fa", or "sbora_fa+nf4" on a quantised base: as sbora-client writes it. */
function methodOf(spec) {
  const method = ((spec.adapter || {}).method || '').replace(/^METHOD_/, '').toLowerCase();
  return method + (spec.quantization === 'QUANTIZATION_NF4' ? '+nf4' : '');
}

function jobRow(job) {
  const row = element('tr');
  const progress = job.progress || {};
  const name = element('td', 'name');
  const link = element('a', '', leaf(job.name));
  link.href = '#/' + job.name;
  name.append(link);
  if (job.displayName) name.append(element('span', 'sub', job.displayName));
  const state = element('td');
  state.append(stateBadge(job.state));
  const {step, total, share} = progressOf(job);
  const barCell = element('td');
  const wrap = element('div', 'progress');
  const bar = element('div', 'bar');
  const fill = element('div', 'fill');
  fill.style.width = (share * 100).toFixed(1) + '%';
  bar.append(fill);
  wrap.append(bar, element('span', '', total ? step + ' / ' + total : (progress.phase && !kEnded.includes(shortState(job.state)) ? progress.phase : '–')));
  barCell.append(wrap);
  const spec = job.spec || {};
  const method = methodOf(spec);
  const running = shortState(job.state) === 'RUNNING';
  row.append(name, state, element('td', '', leaf(spec.model)), element('td', '', method + (spec.adapter ? ', r ' + number(spec.adapter.rank) : '')),
    barCell, element('td', 'num', formatLoss(number(progress.loss))),
    element('td', 'num', running ? formatSpeed(number(progress.tokensPerSecond)) : '–'), element('td', '', formatAge(job.createTime)));
  return row;
}

function workerRow(worker) {
  const row = element('tr');
  const state = element('td');
  state.append(stateBadge(worker.state));
  const name = element('td', 'name', leaf(worker.name));
  if (worker.host && worker.host !== leaf(worker.name)) name.append(element('span', 'sub', worker.host));
  row.append(name, state, element('td', 'num', number(worker.slotsUsed) + ' / ' + number(worker.slotsTotal)),
    element('td', '', (worker.gpus || []).join(', ') || 'none'), element('td', '', worker.version || '–'),
    element('td', 'name', (worker.leases || []).map(leaf).join(', ') || '–'), element('td', '', formatAge(worker.lastSeenTime)));
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

async function refreshList() {
  clearTimeout(listTimer);
  try {
    const [jobs, summary, workers] = await Promise.all([loadJobs(), get('/api/summary?project=' + project), get('/api/workers')]);
    if (isJobPath(currentPath())) return;
    show('list');
    setConnection('live', 'live');
    byId('list-error').hidden = true;
    byId('jobs').tBodies[0].replaceChildren(...jobs.map(jobRow));
    byId('jobs').hidden = jobs.length === 0;
    byId('jobs-empty').hidden = jobs.length !== 0;
    const workerList = workers.workers || [];
    byId('workers').tBodies[0].replaceChildren(...workerList.map(workerRow));
    byId('workers').hidden = workerList.length === 0;
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
    byId('pull-command').textContent = 'sbora-client --server ' + serverAddress + ' pull ' + job.adapter + ' -o ' + leaf(job.name);
  }
}

function renderFacts() {
  const job = current.job;
  const spec = job.spec || {};
  const adapter = spec.adapter || {};
  const training = spec.training || {};
  const progress = job.progress || {};
  const end = job.endTime ? Date.parse(job.endTime) : Date.now();
  byId('job-facts').replaceChildren(
    fact('Name', job.name, 'wide'), fact('Model', leaf(spec.model)), fact('Data set', spec.dataset ? leaf(spec.dataset) : (spec.datasets || []).map(leaf).join(', ')),
    fact('Method', methodOf(spec) + ', r ' + number(adapter.rank) + ', α ' + number(adapter.alpha)),
    fact('Target modules', (adapter.targetModules || []).join(', ')), fact('Trainable parameters', formatCount(job.trainableParameters)),
    fact('Peak learning rate', training.learningRate), fact('Batch size', training.batchSize),
    fact('Attempt', number(job.attempt) + (number(job.recoveryCount) ? ', recovered ' + number(job.recoveryCount) + '×' : '')),
    fact('Worker', [job.worker, job.resolvedDevice].filter(Boolean).join(', ')),
    fact('Created', job.createTime ? new Date(job.createTime).toLocaleString() : ''),
    fact('Run time', job.startTime ? formatDuration((end - Date.parse(job.startTime)) / 1000) : ''),
    fact('Validation loss', formatLoss(number(progress.validationLoss))), fact('Trained tokens', formatCount(progress.trainedTokens)));
}

function renderProgress() {
  const job = current.job;
  const progress = job.progress || {};
  const {step, total, share} = progressOf(job);
  const state = shortState(job.state);
  byId('job-fill').style.width = (share * 100).toFixed(1) + '%';
  const parts = [];
  if (total) parts.push('step ' + step + ' of ' + total);
  if (number(progress.loss)) parts.push('loss ' + formatLoss(number(progress.loss)));
  if (state === 'RUNNING' && number(progress.tokensPerSecond)) parts.push(formatSpeed(number(progress.tokensPerSecond)) + ' tokens/s');
  if (state === 'RUNNING' && number(progress.remainingSeconds)) parts.push(formatDuration(number(progress.remainingSeconds)) + ' left');
  if (!kEnded.includes(state) && progress.phase) parts.push(progress.phase);
  byId('job-progress').textContent = parts.join(' · ') || (state === 'QUEUED' ? 'waiting for a free slot' : '');
}

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function lineChart(id, datasets, format) {
  return new Chart(byId(id), {
    type: 'line',
    data: {datasets: datasets.map((set) => ({
      label: set.label, data: [], borderColor: colour(set.colour), backgroundColor: colour(set.colour), borderWidth: set.points ? 2 : 1.6,
      pointRadius: set.points ? 3 : 0, pointHitRadius: 8, tension: 0, spanGaps: true}))},
    options: {
      animation: false, maintainAspectRatio: false, normalized: true, parsing: false,
      interaction: {mode: 'nearest', axis: 'x', intersect: false},
      scales: {
        x: {type: 'linear', title: {display: true, text: 'step', color: colour('--soft')}, grid: {color: colour('--grid')}, ticks: {color: colour('--soft'), precision: 0}},
        y: {grid: {color: colour('--grid')}, ticks: {color: colour('--soft'), callback: format}},
      },
      plugins: {
        legend: {display: datasets.length > 1, labels: {color: colour('--ink'), boxWidth: 14, boxHeight: 2}},
        tooltip: {callbacks: {title: (items) => 'step ' + items[0].parsed.x}},
      },
    },
  });
}

function makeCharts() {
  if (charts) for (const chart of Object.values(charts)) chart.destroy();
  const short = (value) => Math.abs(value) !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : formatNumber(value, 4).replace(/\.00$/, '');
  charts = {
    loss: lineChart('chart-loss', [{label: 'training', colour: '--series-1'}, {label: 'validation', colour: '--series-2', points: true}], short),
    rate: lineChart('chart-rate', [{label: 'learning rate', colour: '--series-1'}], short),
    speed: lineChart('chart-speed', [{label: 'tokens/s', colour: '--series-1'}], (value) => formatCount(value)),
    norm: lineChart('chart-norm', [{label: 'gradient norm', colour: '--series-1'}], short),
  };
}

// Every n-th point once there are more than the screen can tell apart; the newest stays.
function thin(points) {
  if (points.length <= kMaxPoints) return points;
  const stride = Math.ceil(points.length / kMaxPoints);
  return points.filter((point, index) => index % stride === 0 || index === points.length - 1);
}

function drawCharts() {
  current.drawPending = false;
  const points = [...current.metrics.values()].sort((a, b) => number(a.step) - number(b.step));
  const series = (field) => thin(points.map((point) => ({x: number(point.step), y: number(point[field])})));
  charts.loss.data.datasets[0].data = series('loss');
  charts.loss.data.datasets[1].data = points.filter((point) => point.validationLoss !== undefined && point.validationLoss !== null)
    .map((point) => ({x: number(point.step), y: number(point.validationLoss)}));
  charts.rate.data.datasets[0].data = series('learningRate');
  charts.speed.data.datasets[0].data = series('tokensPerSecond');
  charts.norm.data.datasets[0].data = series('gradientNorm');
  for (const chart of Object.values(charts)) {
    // One point makes no line: show it as a dot.
    chart.data.datasets[0].pointRadius = points.length === 1 ? 3 : 0;
    chart.update('none');
  }
  for (const note of document.querySelectorAll('.plot .waiting')) note.hidden = points.length > 0;
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
  const time = element('time', '', event.time ? new Date(event.time).toLocaleTimeString('en-GB') : '');
  if (event.time) time.dateTime = event.time;
  item.append(time, element('span', 'type', event.type), element('span', 'message', event.message));
  const list = byId('events');
  list.prepend(item);
  while (list.childElementCount > kMaxEvents) list.lastElementChild.remove();
  byId('events-empty').hidden = true;
}

function stopWatch() {
  if (watching) watching.abort();
  watching = null;
}

function takeMessage(kind, payload) {
  if (kind === 'job') renderJob(payload);
  if (kind === 'event') addEvent(payload);
  if (kind === 'metric') { current.metrics.set(number(payload.step), payload); scheduleDraw(); }
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
    const {value, done} = await reader.read();
    if (done) return;
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
      wait = 500;
      renderJob(await get('/api/jobs/' + name));
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
  current = {name, job: {}, metrics: new Map(), events: new Set(), sequence: 0, drawPending: false};
  const mine = current;
  try {
    const job = await get('/api/jobs/' + name);
    // Events first: the stream goes on from their sequence, so no point may fall between the two reads.
    const events = await get('/api/jobs/' + name + '/events');
    const metrics = await get('/api/jobs/' + name + '/metrics');
    if (current !== mine) return;
    show('job');
    byId('events').replaceChildren();
    byId('events-empty').hidden = false;
    renderJob(job);
    makeCharts();
    for (const point of metrics.metrics || []) current.metrics.set(number(point.step), point);
    for (const event of events.events || []) addEvent(event);
    current.sequence = number(events.sequence);
    drawCharts();
    watchJob(name);
  } catch (error) {
    if (current !== mine || askForToken(error)) return;
    show('missing');
    byId('missing-title').textContent = error.status === 404 ? 'No such job' : 'The server does not answer';
    byId('missing-text').textContent = error.message;
    setConnection(error.status === 404 ? 'live' : 'lost', error.status === 404 ? 'live' : 'no connection');
  }
}

// ---------------------------------------------------------------------------------------------- start

async function loadServer() {
  try {
    const info = await get('/api/server');
    serverAddress = info.address;
    byId('server').textContent = 'version ' + info.version + ' · ' + info.address;
    byId('join-command').textContent = 'sbora-worker --server ' + info.address;
  } catch (error) {
    askForToken(error);
  }
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
  loadServer();
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
loadServer().then(route);
