// node --test: the page's model of a run with rollbacks, restarts, repeated events and non-finite numbers.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {dateOf, formatBytes, formatCount, formatDuration, formatNumber, numberOf} from '../../../dashboard/format.js';
import {isTold} from '../../../dashboard/journal_view.js';
import {layoutText} from '../../../dashboard/panels.js';
import {Store} from '../../../dashboard/store.js';

const columns = ['branch', 'step', 'loss', 'grad_norm', 'learning_rate', 'tokens_per_second', 'eval_loss', 'update'];
const row = (branch, step, loss, update = 'applied') => [branch, step, loss, 1, 1e-3, 10, null, update];
const event = (branch, step, loss) => Object.fromEntries(columns.map((name, i) => [name, row(branch, step, loss)[i]]));
const loaded = (rows, entries = []) => {
  const store = new Store();
  store.load({state: {progress: {step: 0}, checkpoints: []}, metrics: {columns, rows}, journal: {entries}});
  return store;
};
const entry = (seq, generation, step, term = 1) => ({seq, term, generation, event: {step}, text: ''});

test('after a rollback the line goes on from the branch point and the left end is kept apart', () => {
  const store = loaded([row(0, 1, 10), row(0, 2, 20), row(0, 3, 30), row(0, 4, 40), row(1, 3, 33), row(1, 4, 44)]);
  const {main, left} = store.line('loss');
  assert.deepEqual(main, {x: [1, 2, 3, 4], y: [10, 20, 33, 44]});
  assert.deepEqual(left, [{branch: 0, x: [2, 3, 4], y: [20, 30, 40]}]);
});

test('a second rollback behind the first branch point leaves both', () => {
  const store = loaded([row(0, 1, 10), row(0, 2, 20), row(0, 3, 30), row(1, 3, 31), row(1, 4, 41), row(2, 2, 22)]);
  const {main, left} = store.line('loss');
  assert.deepEqual(main, {x: [1, 2], y: [10, 22]});
  assert.deepEqual(left.map((l) => [l.branch, l.x]), [[0, [1, 2, 3]], [1, [3, 4]]]);
});

test('a row that comes twice, or late, counts once and in its place', () => {
  const store = loaded([row(0, 1, 10), row(0, 3, 30)]);
  store.apply('step', event(0, 3, 30));
  store.apply('step', event(0, 2, 20));
  store.apply('step', event(0, 4, 40));
  assert.deepEqual(store.line('loss').main, {x: [1, 2, 3, 4], y: [10, 20, 30, 40]});
});

test('NaN and infinities arrive as texts and stay what they are', () => {
  const store = loaded([row(0, 1, 'NaN'), row(0, 2, 'Infinity'), row(0, 3, '-Infinity'), row(0, 4, null)]);
  assert.deepEqual(store.line('loss').main.y, [NaN, Infinity, -Infinity, null]);
  assert.equal(numberOf(undefined), null);
});

test('a new generation is a mark, but not twice where a rollback began it', () => {
  const store = loaded([row(0, 1, 1), row(0, 2, 1), row(0, 5, 1), row(1, 3, 1)],
                       [entry(1, 1, 0), entry(2, 2, 5), entry(3, 3, 2), entry(3, 4, 9)]);
  const kinds = store.allMarks().map((mark) => `${mark.kind} ${mark.step}`);
  assert.deepEqual(kinds, ['rollback 3', 'restart 5']);
});

test('skipped updates are marked, whether named or numbered', () => {
  const store = loaded([row(0, 1, 1, 'applied'), row(0, 2, 1, 0), row(0, 3, 1, 'skipped'), row(0, 4, 1, 1)]);
  assert.deepEqual(store.allMarks().map((mark) => mark.step), [3, 4]);
});

test('a restart stands at the step that was counted when it was decided', () => {
  const abort = {type: 'AbortGeneration', generation: 2, counted_step: 2};
  const store = loaded([row(0, 1, 31), row(0, 2, 32), row(0, 3, 33), row(0, 4, 34)]);
  store.putEntry({seq: 1, term: 1, generation: 1, event: {type: 'WorkerUp'}, commands: []});
  store.putEntry({seq: 2, term: 1, generation: 2, event: {type: 'WorkerExited'}, commands: [abort]});
  assert.deepEqual(store.marks.filter((mark) => mark.kind === 'restart').map((mark) => mark.step), [2]);
});

test('the tooltip shows the newest branch that has the step', () => {
  const store = loaded([row(0, 3, 30), row(1, 3, 33)]);
  assert.equal(store.rowAt(3).loss, 33);
  assert.equal(store.rowAt(3).branch, 1);
  assert.equal(store.rowAt(9), null);
});

test('a row without a step is no row', () => {
  const store = loaded([row(0, 1, 10)]);
  store.apply('step', row(0, 2, 20));  // values without names
  assert.deepEqual(store.line('loss').main, {x: [1], y: [10]});
});

test('the journal tells what has words, not every step', () => {
  assert.equal(isTold({severity: 'info', commands: [{type: 'Send'}]}), false);
  assert.equal(isTold({severity: 'info'}), false);
  assert.equal(isTold({severity: 'info', commands: [{type: 'Note', text: 'committed'}]}), true);
  assert.equal(isTold({severity: 'warning'}), true);
});

test('the layout says what is missing, and tp where there is any', () => {
  const now = {dp: 1, tp: 1, pp: 2};
  assert.equal(layoutText(now, now), 'dp 1 \u00d7 pp 2');
  assert.equal(layoutText(now, {dp: 2, tp: 1, pp: 2}), 'dp 1 \u00d7 pp 2 (of dp 2 \u00d7 pp 2)');
  assert.equal(layoutText({dp: 2, tp: 4, pp: 1}), 'dp 2 \u00d7 tp 4 \u00d7 pp 1');
});

test('numbers, sizes and times are written for people', () => {
  assert.equal(formatNumber(2.34567), '2.346');
  assert.equal(formatNumber('NaN'), 'NaN');
  assert.equal(formatNumber(null), '\u2013');
  assert.equal(formatNumber(0.0003, 3), '3.0e-4');
  assert.equal(formatCount(41234), '41.2 k');
  assert.equal(formatCount(1.5e6), '1.50 M');
  assert.equal(formatBytes(1536), '1.5 KiB');
  assert.equal(formatDuration(59.6), '1:00');
  assert.equal(formatDuration(3725), '1:02:05');
  assert.equal(formatDuration(200000), '2 d 7 h');
  for (const time of [1700000000, 1700000000000, 1700000000000000000, '2023-11-14T22:13:20Z']) {
    assert.equal(dateOf(time).toISOString(), '2023-11-14T22:13:20.000Z', String(time));
  }
});
