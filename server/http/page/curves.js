// The four curves of a job, drawn with Chart.js. What they show is in `current`, which app.js keeps.
'use strict';

const kMaxPoints = 2000;
let charts = null;

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
        legend: {display: false, labels: {color: colour('--ink'), boxWidth: 14, boxHeight: 2}},
        tooltip: {callbacks: {title: (items) => 'step ' + items[0].parsed.x}},
      },
    },
  });
}

/** The label of a tick: as many digits as set it apart from its neighbours, the same for all of an axis. */
function axisNumber(value, index, ticks) {
  if (value === 0) return '0';
  const spacing = ticks.length > 1 ? Math.abs(ticks[1].value - ticks[0].value) : Math.abs(value);
  if (spacing < 0.0005 || Math.abs(value) >= 1e6) return value.toExponential(1);
  const digits = spacing > 0 ? Math.min(4, Math.max(0, -Math.floor(Math.log10(spacing) + 1e-9))) : 0;
  return value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function makeCharts() {
  if (charts) for (const chart of Object.values(charts)) chart.destroy();
  charts = {
    loss: lineChart('chart-loss', [{label: 'training', colour: '--series-1'}, {label: 'validation', colour: '--series-2', points: true}], axisNumber),
    rate: lineChart('chart-rate', [{label: 'learning rate', colour: '--series-1'}], axisNumber),
    speed: lineChart('chart-speed', [{label: 'tokens/s', colour: '--series-1'}], axisNumber),
    norm: lineChart('chart-norm', [{label: 'gradient norm', colour: '--series-1'}], axisNumber),
  };
}

// Every n-th point once there are more than the screen can tell apart; the newest stays.
function thin(points) {
  if (points.length <= kMaxPoints) return points;
  const stride = Math.ceil(points.length / kMaxPoints);
  return points.filter((point, index) => index % stride === 0 || index === points.length - 1);
}

function drawCharts() {
  if (!current || !charts) return;  // the view was left between the request of a frame and the frame
  current.drawPending = false;
  const points = [...current.metrics.values()].sort((a, b) => number(a.step) - number(b.step));
  const series = (field) => thin(points.map((point) => ({x: number(point.step), y: number(point[field])})));
  charts.loss.data.datasets[0].data = series('loss');
  const validated = points.filter((point) => point.validationLoss !== undefined && point.validationLoss !== null)
    .map((point) => ({x: number(point.step), y: number(point.validationLoss)}));
  charts.loss.data.datasets[1].data = validated;
  charts.loss.options.plugins.legend.display = validated.length > 0;
  charts.rate.data.datasets[0].data = series('learningRate');
  charts.speed.data.datasets[0].data = series('tokensPerSecond');
  charts.norm.data.datasets[0].data = series('gradientNorm');
  for (const chart of Object.values(charts)) {
    // One point makes no line: show it as a dot.
    chart.data.datasets[0].pointRadius = points.length === 1 ? 3 : 0;
    chart.update('none');
  }
  byId('charts').hidden = points.length === 0 && kEnded.includes(shortState(current.job.state));
  for (const note of document.querySelectorAll('.plot .waiting')) note.hidden = points.length > 0;
}
