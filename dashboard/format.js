// Numbers and times as people read them. Pure functions; a missing value (null, undefined) is an en dash.

export const kMissing = '\u2013';

/** JSON has no NaN: the server writes "NaN", "Infinity" and "-Infinity" as strings. null and undefined stay null. */
export function numberOf(value) {
  if (value === null || value === undefined || value === '') return null;
  return Number(value);
}

/** `digits` significant digits, without an exponent where that is short. */
export function formatNumber(value, digits = 4) {
  const x = numberOf(value);
  if (x === null) return kMissing;
  if (Number.isNaN(x)) return 'NaN';
  if (!Number.isFinite(x)) return x > 0 ? '\u221e' : '\u2212\u221e';
  const size = Math.abs(x);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return x.toExponential(Math.max(0, digits - 2));
  return x.toPrecision(digits).includes('e') ? String(Math.round(x)) : x.toPrecision(digits);
}

export function formatFixed(value, digits) {
  const x = numberOf(value);
  if (x === null) return kMissing;
  return Number.isFinite(x) ? x.toFixed(digits) : formatNumber(x);
}

/** 1234567 -> "1.23 M". */
export function formatCount(value) {
  const x = numberOf(value);
  if (x === null || !Number.isFinite(x)) return formatNumber(value);
  for (const [unit, size] of [['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e4]]) {
    if (x >= size) return `${(x / (unit === 'k' ? 1e3 : size)).toPrecision(3)} ${unit}`;
  }
  return String(Math.round(x));
}

export function formatBytes(value) {
  let x = numberOf(value);
  if (x === null) return kMissing;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (x >= 1024 && unit < units.length - 1) {
    x /= 1024;
    ++unit;
  }
  return unit === 0 ? `${x} B` : `${x < 100 ? x.toFixed(1) : Math.round(x)} ${units[unit]}`;
}

/** 3725 -> "1:02:05", 59 -> "0:59", 200000 -> "2 d 7 h". */
export function formatDuration(seconds) {
  const x = numberOf(seconds);
  if (x === null || !Number.isFinite(x) || x < 0) return kMissing;
  const whole = Math.round(x);
  const days = Math.floor(whole / 86400);
  const hours = Math.floor(whole / 3600) % 24;
  const minutes = Math.floor(whole / 60) % 60;
  const two = (n) => String(n).padStart(2, '0');
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours}:${two(minutes)}:${two(whole % 60)}`;
  return `${minutes}:${two(whole % 60)}`;
}

export function formatSeconds(value) {
  const x = numberOf(value);
  if (x === null) return kMissing;
  return x < 1 ? `${Math.round(x * 1000)} ms` : x < 60 ? `${x.toFixed(1)} s` : formatDuration(x);
}

/** A Date of epoch seconds, milliseconds, nanoseconds or an RFC 3339 text; null if it is none. */
export function dateOf(value) {
  if (value === null || value === undefined || value === '') return null;
  if (typeof value === 'string' && !/^[0-9.]+$/.test(value)) {
    const date = new Date(value);
    return Number.isNaN(date.getTime()) ? null : date;
  }
  let x = Number(value);
  if (!(x > 0)) return null;
  if (x > 1e16) x /= 1e6;
  else if (x < 1e11) x *= 1e3;
  return new Date(x);
}

export function formatClock(value) {
  const date = dateOf(value);
  return date ? date.toLocaleTimeString([], {hour12: false}) : kMissing;
}
