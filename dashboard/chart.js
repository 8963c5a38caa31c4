// A line chart on a canvas, made for training curves: NaN and infinities are markers, spikes survive any width, the y axis may
// be logarithmic, steps can be marked, and charts that share a View have one cursor and one zoom.
import {formatCount, formatNumber} from './format.js';
import {bucketSegments, extent, linearTicks, logTicks, lowerBound} from './series.js';

const kMargin = {left: 58, right: 14, top: 12, bottom: 26};
const kDotRoom = 4;  // right of the newest step, for its marker
const kMarkReach = 4;  // pixels around the cursor within which a mark is named
const kMostMarks = 3;  // named in one tooltip

/** The cursor (a step or null) and the range of steps shown ([low, high] or null for all) of several charts. */
export class View extends EventTarget {
  cursor = null;
  range = null;
  setCursor(step) {
    if (step === this.cursor) return;
    this.cursor = step;
    this.dispatchEvent(new Event('change'));
  }
  setRange(range) {
    this.range = range;
    this.dispatchEvent(new Event('change'));
  }
}

export class LineChart {
  /** `describe(step)` gives the rows [name, text, color?] of the tooltip. */
  constructor(container, {label, view, describe}) {
    this.view = view;
    this.describe = describe;
    this.data = {series: [], baselines: [], marks: [], logY: false};
    this.canvas = document.createElement('canvas');
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute('role', 'img');
    this.canvas.setAttribute('aria-label', `${label}. Arrow keys move the cursor, Escape removes it.`);
    this.tip = document.createElement('div');
    this.tip.className = 'tip';
    this.tip.setAttribute('aria-live', 'polite');
    this.tip.hidden = true;
    this.empty = document.createElement('p');
    this.empty.className = 'empty';
    this.empty.textContent = 'no steps yet';
    container.append(this.canvas, this.empty, this.tip);
    this.drag = null;
    this.queued = false;
    this.cost = 0;  // milliseconds that the last drawing took
    new ResizeObserver(() => this.redraw()).observe(container);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
    view.addEventListener('change', () => this.redraw());
    this.listen();
  }

  /**
   * series: [{x, y, color, faint, dashed, dots, width}], colors being names of CSS variables; baselines: [{value, text, color}];
   * marks: [{step, kind, text}].
   */
  set(data) {
    this.data = data;
    this.redraw();
  }

  redraw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      const begin = performance.now();
      this.draw();
      this.cost = performance.now() - begin;
    });
  }

  listen() {
    const canvas = this.canvas;
    const stepAt = (event) => this.nearestStep(this.toStep(event.clientX - canvas.getBoundingClientRect().left));
    canvas.addEventListener('pointermove', (event) => {
      if (this.drag) this.drag.to = this.toStep(event.clientX - canvas.getBoundingClientRect().left);
      this.view.setCursor(stepAt(event));
      if (this.drag) this.redraw();
    });
    canvas.addEventListener('pointerdown', (event) => {
      if (event.pointerType !== 'mouse' || event.button !== 0) return;
      const from = this.toStep(event.clientX - canvas.getBoundingClientRect().left);
      this.drag = {from, to: from};
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointerup', () => {
      if (!this.drag) return;
      const [low, high] = [this.drag.from, this.drag.to].sort((a, b) => a - b);
      const wide = this.toX(high) - this.toX(low) > 8;
      this.drag = null;
      if (wide) this.view.setRange([Math.max(low, this.shown.low), Math.min(high, this.shown.high)]);
      else this.redraw();
    });
    canvas.addEventListener('pointercancel', () => { this.drag = null; this.redraw(); });
    canvas.addEventListener('pointerleave', () => this.view.setCursor(null));
    canvas.addEventListener('dblclick', () => this.view.setRange(null));
    canvas.addEventListener('blur', () => this.view.setCursor(null));
    canvas.addEventListener('keydown', (event) => this.onKey(event));
  }

  onKey(event) {
    const xs = this.data.series.find((s) => s.main)?.x ?? [];
    if (xs.length === 0) return;
    const at = this.view.cursor === null ? xs.length - 1 : lowerBound(xs, this.view.cursor);
    const stride = event.shiftKey ? 10 : 1;
    const target = {ArrowLeft: at - stride, ArrowRight: at + stride, Home: 0, End: xs.length - 1}[event.key];
    if (event.key === 'Escape') this.view.setCursor(null);
    else if (target !== undefined) this.view.setCursor(xs[Math.min(Math.max(target, 0), xs.length - 1)]);
    else return;
    event.preventDefault();
  }

  nearestStep(value) {
    const xs = this.data.series.find((s) => s.main)?.x ?? [];
    if (xs.length === 0) return null;
    const i = Math.min(lowerBound(xs, value), xs.length - 1);
    return i > 0 && value - xs[i - 1] < xs[i] - value ? xs[i - 1] : xs[i];
  }

  toX(step) {
    const {low, high} = this.shown;
    return kMargin.left + ((step - low) / (high - low)) * this.plotWidth;
  }
  toStep(pixel) {
    const {low, high} = this.shown ?? {low: 0, high: 1};
    return low + ((pixel - kMargin.left) / this.plotWidth) * (high - low);
  }
  toY(value) {
    const {bottom, top} = this.scale;
    const part = this.data.logY ? Math.log(value / bottom) / Math.log(top / bottom) :
                                  (value - bottom) / (top - bottom);
    return kMargin.top + (1 - part) * this.plotHeight;
  }

  measure() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.plotWidth = Math.max(10, box.width - kMargin.left - kMargin.right);
    this.plotHeight = Math.max(10, box.height - kMargin.top - kMargin.bottom);
    const context = this.canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    return context;
  }

  chooseScale() {
    const {series, baselines, logY} = this.data;
    const xs = series.filter((s) => s.x.length > 0);
    const low = Math.min(...xs.map((s) => s.x[0]));
    const high = Math.max(...xs.map((s) => s.x[s.x.length - 1]));
    const [from, to] = this.view.range ?? [low, high];
    this.shown = {low: from, high: to > from ? to : from + 1};
    let bottom = Infinity;
    let top = -Infinity;
    for (const s of xs) {
      s.begin = Math.max(0, lowerBound(s.x, this.shown.low) - 1);
      s.end = Math.min(s.x.length, lowerBound(s.x, this.shown.high) + 1);
      const found = extent(s.y, s.begin, s.end, logY);
      if (!found) continue;
      bottom = Math.min(bottom, found[0]);
      top = Math.max(top, found[1]);
    }
    for (const {value} of baselines) {
      if (!Number.isFinite(value) || (logY && value <= 0)) continue;
      bottom = Math.min(bottom, value);
      top = Math.max(top, value);
    }
    if (!(bottom <= top)) [bottom, top] = logY ? [0.1, 10] : [0, 1];
    if (logY) {
      const room = Math.max(1.05, (top / bottom) ** 0.06);
      this.scale = {bottom: bottom / room, top: top * room};
    } else {
      const room = (top - bottom) * 0.06 || Math.abs(top) * 0.05 || 1;
      this.scale = {bottom: bottom - room, top: top + room};
    }
  }

  draw() {
    const context = this.measure();
    const styles = getComputedStyle(this.canvas);
    const color = (name) => styles.getPropertyValue(name).trim();
    const isEmpty = this.data.series.every((s) => s.x.length === 0);
    this.empty.hidden = !isEmpty;
    if (isEmpty) {
      this.tip.hidden = true;
      return;
    }
    this.chooseScale();
    this.drawAxes(context, color);
    context.save();
    context.beginPath();
    context.rect(kMargin.left, 0, this.plotWidth + kDotRoom, kMargin.top + this.plotHeight + 1);
    context.clip();
    this.drawMarks(context, color);
    this.drawBaselines(context, color);
    for (const s of this.data.series) this.drawSeries(context, s, color);
    for (const s of this.data.series) this.drawNonFinite(context, s, color);
    this.drawCursor(context, color);
    context.restore();
    this.showTip();
  }

  drawAxes(context, color) {
    const {bottom, top} = this.scale;
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.lineWidth = 1;
    context.strokeStyle = color('--grid');
    context.fillStyle = color('--muted');
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    const rows = Math.max(2, Math.floor(this.plotHeight / 45));
    const ticks = this.data.logY ? logTicks(bottom, top, rows) : linearTicks(bottom, top, rows);
    for (const tick of ticks) {
      const y = Math.round(this.toY(tick)) + 0.5;
      context.beginPath();
      context.moveTo(kMargin.left, y);
      context.lineTo(kMargin.left + this.plotWidth, y);
      context.stroke();
      context.fillText(tick === 0 ? '0' : formatNumber(Number(tick.toPrecision(6)), 3), kMargin.left - 7, y);
    }
    context.textAlign = 'center';
    context.textBaseline = 'top';
    const columns = Math.max(2, Math.floor(this.plotWidth / 90));
    for (const tick of linearTicks(this.shown.low, this.shown.high, columns)) {
      if (!Number.isInteger(tick)) continue;
      context.fillText(formatCount(tick), this.toX(tick), kMargin.top + this.plotHeight + 8);
    }
    context.strokeStyle = color('--axis');
    context.beginPath();
    context.moveTo(kMargin.left, kMargin.top + this.plotHeight + 0.5);
    context.lineTo(kMargin.left + this.plotWidth, kMargin.top + this.plotHeight + 0.5);
    context.stroke();
  }

  drawMarks(context, color) {
    const floor = kMargin.top + this.plotHeight;
    for (const mark of this.data.marks) {
      if (mark.step < this.shown.low || mark.step > this.shown.high) continue;
      const x = Math.round(this.toX(mark.step)) + 0.5;
      context.strokeStyle = context.fillStyle = color(`--mark-${mark.kind}`);
      if (mark.kind === 'checkpoint' || mark.kind === 'skip') {
        context.beginPath();
        context.moveTo(x, floor - 7);
        context.lineTo(x - 4, floor);
        context.lineTo(x + 4, floor);
        context.fill();
        continue;
      }
      context.lineWidth = 1.5;
      context.setLineDash(mark.kind === 'restart' ? [3, 3] : []);
      context.beginPath();
      context.moveTo(x, kMargin.top - 4);
      context.lineTo(x, floor);
      context.stroke();
      context.setLineDash([]);
      context.beginPath();
      context.arc(x, kMargin.top - 4, 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  drawBaselines(context, color) {
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = 'right';
    context.textBaseline = 'bottom';
    for (const {value, text, color: name} of this.data.baselines) {
      if (!Number.isFinite(value) || (this.data.logY && value <= 0)) continue;
      const y = Math.round(this.toY(value)) + 0.5;
      context.strokeStyle = context.fillStyle = color(name);
      context.lineWidth = 1;
      context.setLineDash([6, 4]);
      context.beginPath();
      context.moveTo(kMargin.left, y);
      context.lineTo(kMargin.left + this.plotWidth, y);
      context.stroke();
      context.setLineDash([]);
      context.fillText(text, kMargin.left + this.plotWidth - 4, y - 2);
    }
  }

  drawSeries(context, s, color) {
    if (s.x.length === 0) return;
    context.strokeStyle = context.fillStyle = color(s.color);
    context.globalAlpha = s.faint ? 0.38 : 1;
    context.lineWidth = s.width ?? 1.5;
    context.lineJoin = 'round';
    context.setLineDash(s.dashed ? [4, 3] : []);
    const drawable = this.data.logY ? s.y.map((v) => (v !== null && v <= 0 ? NaN : v)) : s.y;
    if (s.dots) {
      // Few values among many steps: joined over the gaps.
      context.beginPath();
      let started = false;
      const dots = [];
      for (let i = s.begin; i < s.end; ++i) {
        if (drawable[i] === null || !Number.isFinite(drawable[i])) continue;
        dots.push([this.toX(s.x[i]), this.toY(drawable[i])]);
        context[started ? 'lineTo' : 'moveTo'](...dots.at(-1));
        started = true;
      }
      context.stroke();
      if (dots.length > this.plotWidth / 8) dots.length = 0;  // the line alone is clearer
      for (const [x, y] of dots) {
        context.beginPath();
        context.arc(x, y, 3, 0, 2 * Math.PI);
        context.fill();
      }
    } else {
      for (const segment of bucketSegments(s.x, drawable, (x) => this.toX(x), s.begin, s.end)) {
        context.beginPath();
        segment.forEach(([x, value], i) => context[i ? 'lineTo' : 'moveTo'](x, this.toY(value)));
        if (segment.length === 1) {
          context.arc(segment[0][0], this.toY(segment[0][1]), 1, 0, 2 * Math.PI);
        }
        context.stroke();
      }
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  /** NaN is a cross and +infinity a triangle at the top, -infinity (and, on a log axis, 0 or less) a triangle at the bottom. */
  drawNonFinite(context, s, color) {
    if (!s.markers) return;
    context.strokeStyle = context.fillStyle = color('--mark-nan');
    context.lineWidth = 2;
    const size = 4.5;
    let lastX = -Infinity;
    for (let i = s.begin; i < s.end; ++i) {
      const value = s.y[i];
      const below = value === -Infinity || (this.data.logY && value !== null && value <= 0);
      if (value === null || (Number.isFinite(value) && !below)) continue;
      const x = this.toX(s.x[i]);
      if (x - lastX < 1) continue;
      lastX = x;
      const y = below ? kMargin.top + this.plotHeight - size - 2 : kMargin.top + size + 2;
      const tip = below ? size : -size;
      context.beginPath();
      if (Number.isNaN(value)) {
        context.moveTo(x - size, y - size);
        context.lineTo(x + size, y + size);
        context.moveTo(x + size, y - size);
        context.lineTo(x - size, y + size);
        context.stroke();
      } else {
        context.moveTo(x, y + tip);
        context.lineTo(x - size, y - tip);
        context.lineTo(x + size, y - tip);
        context.fill();
      }
    }
  }

  drawCursor(context, color) {
    if (this.drag) {
      context.fillStyle = color('--selection');
      const [a, b] = [this.toX(this.drag.from), this.toX(this.drag.to)];
      context.fillRect(Math.min(a, b), kMargin.top, Math.abs(b - a), this.plotHeight);
    }
    if (this.view.cursor === null) return;
    const x = Math.round(this.toX(this.view.cursor)) + 0.5;
    context.strokeStyle = color('--axis');
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, kMargin.top);
    context.lineTo(x, kMargin.top + this.plotHeight);
    context.stroke();
    for (const s of this.data.series) {
      if (s.faint && !s.main) continue;
      const i = lowerBound(s.x, this.view.cursor);
      if (s.x[i] !== this.view.cursor || s.y[i] === null || !Number.isFinite(s.y[i])) continue;
      if (this.data.logY && s.y[i] <= 0) continue;
      context.fillStyle = color(s.color);
      context.beginPath();
      context.arc(x, this.toY(s.y[i]), 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  showTip() {
    const step = this.view.cursor;
    const isInside = step !== null && step >= this.shown.low && step <= this.shown.high;
    this.tip.hidden = !isInside;
    if (!isInside) return;
    const x = this.toX(step);
    const rows = this.describe(step);
    const near = this.data.marks.filter((mark) => Math.abs(this.toX(mark.step) - x) <= kMarkReach);
    for (const mark of near.slice(0, kMostMarks)) {
      rows.push(['', `${mark.text}, step ${mark.step}`, `--mark-${mark.kind}`]);
    }
    if (near.length > kMostMarks) rows.push(['', `and ${near.length - kMostMarks} more marks`]);
    this.tip.replaceChildren(...rows.map(([name, text, color]) => {
      const row = document.createElement('div');
      const value = document.createElement('b');
      value.textContent = text;
      if (name) row.append(`${name} `);
      row.append(value);
      if (color) row.style.color = `var(${color})`;
      return row;
    }));
    const room = kMargin.left + this.plotWidth;
    const width = this.tip.offsetWidth;
    const left = x + 12 + width > room ? Math.max(0, x - 12 - width) : x + 12;
    this.tip.style.transform = `translate(${Math.round(left)}px, ${kMargin.top + 6}px)`;
  }
}
