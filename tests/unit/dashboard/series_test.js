// node --test: what the charts promise (no spike is lost, no NaN vanishes), without a browser.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {bucketSegments, extent, linearTicks, logTicks, lowerBound, smooth} from '../../../dashboard/series.js';

const steps = (n) => Array.from({length: n}, (_, i) => i);
const valuesOf = (segments) => segments.flat().map(([, value]) => value);

test('a spike of one step survives drawing 100000 steps into 500 pixels', () => {
  const xs = steps(100000);
  for (const [at, spike] of [[0, 99], [54321, 99], [54321, -99], [99999, 99]]) {
    const ys = xs.map((x) => Math.sin(x / 1000));
    ys[at] = spike;
    const segments = bucketSegments(xs, ys, (x) => x / 200, 0, xs.length);
    assert.ok(valuesOf(segments).includes(spike), `${spike} at ${at}`);
    assert.ok(valuesOf(segments).length <= 4 * 500);
  }
});

test('points of a column stay in the order of their steps', () => {
  const segments = bucketSegments(steps(8), [5, 1, 9, 3, 5, 9, 1, 4], (x) => x / 4, 0, 8);
  assert.deepEqual(valuesOf(segments), [5, 1, 9, 3, 5, 9, 1, 4]);
  const xs = segments.flat().map(([x]) => x);
  assert.deepEqual(xs, [...xs].sort((a, b) => a - b));
});

test('a NaN that fills a column breaks the line, and missing values do too', () => {
  for (const hole of [NaN, Infinity, null]) {
    const segments = bucketSegments(steps(5), [1, 2, hole, 4, 5], (x) => x * 10, 0, 5);
    assert.deepEqual(segments.map((s) => s.map(([, v]) => v)), [[1, 2], [4, 5]]);
  }
});

test('smoothing has no bias at the start and is not poisoned by a NaN', () => {
  assert.deepEqual(smooth([7, 7, 7], 0.9).map((v) => Number(v.toFixed(12))), [7, 7, 7]);
  const smoothed = smooth([1, NaN, 1, Infinity, null, 1], 0.5);
  assert.deepEqual(smoothed.map((v) => (v === null ? null : Number(v.toFixed(12)))), [1, null, 1, null, null, 1]);
  // Weights of the debiased average of two values at 0.5: 1/3 and 2/3.
  assert.ok(Math.abs(smooth([0, 3], 0.5)[1] - 2) < 1e-12);
});

test('the extent ignores what cannot be drawn', () => {
  assert.deepEqual(extent([NaN, -2, 3, Infinity, null], 0, 5, false), [-2, 3]);
  assert.deepEqual(extent([NaN, -2, 3, Infinity, null], 0, 5, true), [3, 3]);
  assert.equal(extent([NaN, null], 0, 2, false), null);
});

test('ticks are round, inside the range, and few', () => {
  assert.deepEqual(linearTicks(0, 1, 5).map((t) => Number(t.toFixed(9))), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(linearTicks(3, 3, 5), [3]);
  for (const [low, high] of [[0.02, 5000], [1e-9, 1e9], [2, 3]]) {
    const ticks = logTicks(low, high, 6);
    assert.ok(ticks.length >= 2 && ticks.length <= 20, `${ticks}`);
    assert.ok(ticks.every((t) => t >= low * 0.99 && t <= high * 1.01));
  }
});

test('lowerBound finds the first step not before the value', () => {
  assert.equal(lowerBound([2, 4, 6], 1), 0);
  assert.equal(lowerBound([2, 4, 6], 4), 1);
  assert.equal(lowerBound([2, 4, 6], 5), 2);
  assert.equal(lowerBound([2, 4, 6], 7), 3);
});

test('a value without a place on the axis is passed over', () => {
  assert.deepEqual(bucketSegments([NaN, 1, 2], [9, 5, 6], (x) => 10 * x, 0, 3), [[[10, 5], [20, 6]]]);
});
