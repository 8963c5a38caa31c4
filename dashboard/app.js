// The page: connects the live data (live.js) with the tiles, charts and panels. Drawing happens at most once a frame for
// tiles and charts, whatever the rate of events.
import {LineChart, View} from './chart.js';
import {setData, setText} from './dom.js';
import {formatClock, formatCount, formatDuration, formatFixed, formatNumber, kMissing, numberOf} from './format.js';
import {JournalView} from './journal_view.js';
import {follow} from './live.js';
import {layoutText, showAgents, showCheckpoints, showRanks, showSpares, showSpikes, showTree} from './panels.js';
import {smooth} from './series.js';
import {Store} from './store.js';

const byId = (id) => document.getElementById(id);
const store = new Store();
const view = new View();
let isLinkUp = false;
const smoothing = byId('smoothing');
const lossLog = byId('loss-log');
const normLog = byId('norm-log');

const lossChart = new LineChart(byId('loss-chart'), {label: 'Loss by step', view, describe: describeLoss});
const normChart = new LineChart(byId('norm-chart'), {label: 'Gradient norm by step', view, describe: describeNorm});
const journal = new JournalView({list: byId('journal'), count: byId('journal-count'),
                                 filter: byId('journal-filter'), severity: byId('journal-severity')});

function describeLoss(step) {
  const row = store.rowAt(step);
  if (!row) return [['step', String(step)]];
  const rows = [['step', `${step}${row.branch ? `, branch ${row.branch}` : ''}`],
                ['loss', formatNumber(row.loss, 5), '--loss']];
  if (row.eval_loss !== null) rows.push(['eval loss', formatNumber(row.eval_loss, 5), '--eval']);
  rows.push(['learning rate', formatNumber(row.learning_rate, 3)]);
  rows.push(['tokens/s', formatCount(row.tokens_per_second)]);
  return rows;
}

function describeNorm(step) {
  const row = store.rowAt(step);
  return [['step', String(step)], ...(row ? [['gradient norm', formatNumber(row.grad_norm, 4), '--norm']] : [])];
}

/** The raw curve (faint if a smoothed one lies over it), the smoothed one, and the ends of left branches. */
function curves(column, color) {
  const {main, left} = store.line(column);
  const weight = Number(smoothing.value);
  const series = left.map((line) => ({...line, color: '--left', width: 1.25, dashed: true, markers: true}));
  series.push({...main, color, main: true, markers: true, faint: weight > 0, width: weight > 0 ? 1 : 1.5});
  if (weight > 0) series.push({x: main.x, y: smooth(main.y, weight), color, width: 2});
  return series;
}

let chartsDrawnAt = 0;
let buildCost = 0;  // milliseconds
let chartTimer = 0;
/** Long runs take longer to draw: new rows then wait, so that drawing takes at most a fifth of the page's time. */
function drawChartsSoon() {
  if (chartTimer) return;
  const pause = 4 * (buildCost + lossChart.cost + normChart.cost);
  chartTimer = setTimeout(() => {
    chartTimer = 0;
    soon(drawCharts);
  }, Math.max(0, chartsDrawnAt + pause - performance.now()));
}

function drawCharts() {
  chartsDrawnAt = performance.now();
  const progress = store.state?.progress ?? {};
  const marks = store.allMarks();
  const series = curves('loss', '--loss');
  const evals = store.line('eval_loss').main;
  if (evals.y.some((value) => value !== null)) {
    series.push({...evals, color: '--eval', dots: true, markers: true, width: 1.5});
  }
  const baselines = [];
  const unigram = numberOf(progress.unigram_loss);
  const uniform = numberOf(progress.uniform_loss);
  if (unigram > 0) baselines.push({value: unigram, text: `unigram ${formatFixed(unigram, 2)}`, color: '--baseline'});
  if (uniform > 0) baselines.push({value: uniform, text: `uniform ${formatFixed(uniform, 2)}`, color: '--baseline'});
  lossChart.set({series, baselines, marks, logY: lossLog.checked});
  normChart.set({series: curves('grad_norm', '--norm'), baselines: [], marks, logY: normLog.checked});
  buildCost = performance.now() - chartsDrawnAt;
}

/** TFLOP/s and MFU, where the run knows them. */
function speedOf(p) {
  if (!(numberOf(p.tflops) > 0)) return '';
  const mfu = numberOf(p.mfu) > 0 ? ` \u00b7 ${(p.mfu * 100).toFixed(0)} %` : '';
  return `${formatNumber(p.tflops, p.tflops < 1 ? 2 : 3)} TFLOP/s${mfu}`;
}

function showTiles(state) {
  const p = state.progress ?? {};
  const step = numberOf(p.step);
  const total = numberOf(p.total_steps);
  setText(byId('t-step'), step === null ? kMissing : String(step));
  setText(byId('t-total'), total ? ` / ${total}` : '');
  byId('t-progress').value = total > 0 && step !== null ? Math.min(1, step / total) : 0;
  setText(byId('t-loss'), formatFixed(p.loss, 4));
  setText(byId('t-loss-note'), `learning rate ${formatNumber(p.learning_rate, 2)}`);
  setText(byId('t-eval'), formatFixed(p.eval_loss, 4));
  setText(byId('t-eval-note'), `unigram ${formatFixed(p.unigram_loss, 3)}`);
  setText(byId('t-tokens'), formatCount(p.tokens_per_second));
  setText(byId('t-tokens-note'), speedOf(p));
  byId('t-tokens-note').title = numberOf(p.mfu) > 0 ? 'model FLOPs, and their share of the peak (MFU)' : '';
  const goodput = numberOf(p.goodput);
  setText(byId('t-goodput'), goodput === null ? kMissing : `${(goodput * 100).toFixed(1)} %`);
  setText(byId('t-goodput-note'), 'useful / wall time');
  const isOver = state.run?.phase === 'finished';
  setText(byId('t-eta'), isOver ? 'done' : formatDuration(p.eta_seconds));
  setText(byId('t-eta-note'), `running ${formatDuration(p.wall_seconds)}`);
  setText(byId('t-restarts'), String(p.restarts ?? kMissing));
  setText(byId('t-restarts-note'), `gen. ${state.generation ?? kMissing}, term ${state.term ?? kMissing}`);
  setText(byId('t-rollbacks'), String(p.rollbacks ?? kMissing));
  setText(byId('t-rollbacks-note'), `branch ${state.branch ?? kMissing}`);
  setData(byId('t-restarts').parentElement, 'some', String(p.restarts > 0));
  setData(byId('t-rollbacks').parentElement, 'some', String(p.rollbacks > 0));
}

/** What is not known now is not claimed: without a connection the phase is that of the last word heard. */
function showPhase() {
  const phase = store.state?.run?.phase ?? 'unknown';
  const isCurrent = isLinkUp || phase === 'finished';
  setText(byId('phase'), isCurrent ? phase : `last seen ${phase}`);
  const hasFailed = phase === 'finished' && store.state.run.exit_code > 0;
  setData(byId('phase'), 'phase', hasFailed ? 'failed' : isCurrent ? phase : 'unknown');
}

function showHeader(state) {
  const run = state.run ?? {};
  const p = state.progress ?? {};
  setText(byId('run-name'), run.name || run.id || 'Tenax');
  showPhase();
  const layout = layoutText(state.layout, state.target);
  const spares = state.spares?.length ?? 0;
  setText(byId('layout'), [layout, `${state.world_size ?? 0} ranks`, ...(spares ? [`${spares} spare`] : [])].join(', '));
  const facts = [];
  if (state.world_size) facts.push(`${state.world_size} ranks, ${layout}`);
  if (run.started_at) facts.push(`started ${formatClock(run.started_at)}`);
  if (run.pid) facts.push(`supervisor pid ${run.pid}`);
  if (run.run_dir) facts.push(run.run_dir);
  setText(byId('facts'), facts.join('  \u00b7  '));
  const notice = byId('notice');
  const isOver = run.phase === 'finished';
  notice.hidden = !isOver;
  setData(notice, 'good', String(run.exit_code === 0));
  if (isOver) {
    setText(notice, `Finished: ${run.finished_reason || 'done'}` +
                        (run.exit_code === null || run.exit_code === undefined ? '' : ` (exit code ${run.exit_code})`));
  }
  document.title = p.step ? `${p.step} \u00b7 ${formatFixed(p.loss, 3)} \u00b7 ${run.name || 'Tenax'}` : 'Tenax';
}

function showState() {
  const state = store.state;
  if (!state) return;
  showHeader(state);
  showTiles(state);
  showTree(byId('tree'), byId('tree-count'), state.actors ?? []);
  showRanks(byId('ranks'), state.ranks ?? []);
  showSpares(byId('spares'), state.spares ?? []);
  showAgents(byId('agents'), byId('agent-count'), state.agents ?? []);
  showCheckpoints(byId('checkpoints'), byId('checkpoint-count'), state.checkpoints ?? []);
  showSpikes(byId('spikes'), byId('detector'), state.spikes ?? [], state.detector);
}

const pending = new Set();
/** Calls `show` once before the next frame, however often it is asked for. */
function soon(show) {
  if (pending.size === 0) {
    requestAnimationFrame(() => {
      const now = [...pending];
      pending.clear();
      for (const each of now) each();
    });
  }
  pending.add(show);
}
const showJournal = () => journal.show(store.journal);

function showLink(up) {
  isLinkUp = up;
  if (store.state) showPhase();
  const link = byId('link');
  const isOver = store.state?.run?.phase === 'finished';
  const kind = up ? 'up' : isOver ? 'over' : 'down';
  setData(link, 'link', kind);
  setText(byId('link-text'),
          {up: 'live', over: 'run is over, server gone', down: 'connection lost, retrying'}[kind]);
  document.body.dataset.stale = String(!up);
}

smoothing.addEventListener('input', () => {
  setText(byId('smoothing-value'), Number(smoothing.value).toFixed(2));
  soon(drawCharts);
});
for (const box of [lossLog, normLog]) box.addEventListener('change', () => soon(drawCharts));
byId('loss-reset').addEventListener('click', () => view.setRange(null));
view.addEventListener('change', () => { byId('loss-reset').disabled = view.range === null; });

follow({
  onLink: showLink,
  onSnapshot: (snapshot) => {
    store.load(snapshot);
    for (const show of [showState, drawCharts, showJournal]) soon(show);
  },
  onEvent: (name, data) => {
    store.apply(name, data);
    if (name === 'state') soon(showState);
    if (name === 'journal') soon(showJournal);
    drawChartsSoon();
  },
});
