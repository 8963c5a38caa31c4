// Mathematics of the charts, without a canvas. Pure functions over arrays in which null means "no value here", while NaN and
// infinities are values that must be seen.

/** Debiased exponential moving average; non-finite values are passed over, so one NaN does not poison what follows. */
export function smooth(values, weight) {
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

/** First index whose x is >= value. */
export function lowerBound(xs, value) {
  let low = 0;
  let high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * At most four points a pixel column: the first, the least, the greatest and the last finite one, in the order in which they
 * occur, so no spike is lost whatever its width. A null or non-finite value breaks the line where a column holds
 * nothing else. Returns segments: arrays of [pixel x, value].
 */
export function bucketSegments(xs, ys, toPixel, begin, end) {
  const segments = [];
  let segment = [];
  const flush = () => {
    if (segment.length > 0) segments.push(segment);
    segment = [];
  };
  for (let i = begin; i < end;) {
    const column = Math.floor(toPixel(xs[i]));
    if (Number.isNaN(column)) {  // no place on the axis
      ++i;
      continue;
    }
    let first = -1;
    let last = -1;
    let least = -1;
    let greatest = -1;
    for (; i < end && Math.floor(toPixel(xs[i])) === column; ++i) {
      if (ys[i] === null || !Number.isFinite(ys[i])) continue;
      if (first < 0) first = least = greatest = i;
      if (ys[i] < ys[least]) least = i;
      if (ys[i] > ys[greatest]) greatest = i;
      last = i;
    }
    if (first < 0) {
      flush();
      continue;
    }
    const chosen = [...new Set([first, least, greatest, last])].sort((a, b) => a - b);
    for (const k of chosen) segment.push([toPixel(xs[k]), ys[k]]);
  }
  flush();
  return segments;
}

/** The least and greatest finite value (greater than 0 for a logarithmic axis), or null if there is none. */
export function extent(values, begin, end, positiveOnly) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = begin; i < end; ++i) {
    const value = values[i];
    if (value === null || !Number.isFinite(value) || (positiveOnly && value <= 0)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** Round numbers (1, 2 or 5 times a power of ten) covering [low, high], about `count` of them. */
export function linearTicks(low, high, count) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) ticks.push(k * step);
  return ticks;
}

/** Powers of ten, with 2 and 5 between them where few decades are shown; linear ticks within one decade. */
export function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 1) return linearTicks(low, high, count);
  const multiples = decades < 3 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil(decades / count));
  const ticks = [];
  for (let d = Math.floor(Math.log10(low)); d <= Math.log10(high); d += multiples.length > 1 ? 1 : stride) {
    for (const m of multiples) {
      const tick = m * 10 ** d;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}
