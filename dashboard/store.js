// Everything the page knows of the run: the newest state, the metric rows of every branch, and the journal.
import {numberOf} from './format.js';
import {lowerBound} from './series.js';

const kColumns = ['loss', 'grad_norm', 'learning_rate', 'tokens_per_second', 'eval_loss'];

/** `update` is the guard's word for what it did: "applied" (or 0) is the normal case. */
const wasSkipped = (update) => update !== null && update !== '' && update !== 0 && update !== 'applied';

class Branch {
  constructor(id) {
    this.id = id;
    this.step = [];
    this.update = [];
    for (const column of kColumns) this[column] = [];
  }

  /** Adds a row or, if its step is known (a snapshot overlaps events), overwrites it. */
  put(row) {
    const step = Number(row.step);
    const last = this.step.length - 1;
    let at = last < 0 || step > this.step[last] ? last + 1 : lowerBound(this.step, step);
    const isNew = this.step[at] !== step;
    for (const column of kColumns) this[column].splice(at, isNew ? 0 : 1, numberOf(row[column]));
    this.update.splice(at, isNew ? 0 : 1, row.update ?? null);
    if (isNew) this.step.splice(at, 0, step);
  }
}

export class Store {
  constructor() {
    this.state = null;
    this.branches = new Map();
    this.journal = [];
    this.marks = [];
    this.version = 0;  // rises with every change of rows or marks
  }

  load({state, metrics, journal}) {
    this.state = state;
    this.branches.clear();
    this.journal = [];
    this.marks = [];
    for (const values of metrics.rows ?? []) {
      this.putRow(Object.fromEntries(metrics.columns.map((name, i) => [name, values[i]])));
    }
    for (const entry of journal.entries ?? []) this.putEntry(entry);
    ++this.version;
  }

  apply(name, data) {
    if (name === 'state') this.state = data;
    else if (name === 'step') this.putRow(data);
    else if (name === 'journal') this.putEntry(data);
    if (name !== 'state') ++this.version;
  }

  putRow(row) {
    if (!Number.isFinite(Number(row.step ?? NaN))) return;
    const id = Number(row.branch ?? 0);
    if (!this.branches.has(id)) this.branches.set(id, new Branch(id));
    this.branches.get(id).put(row);
  }

  /** Entries come in the order of their seq; one already known is dropped. */
  putEntry(entry) {
    const last = this.journal[this.journal.length - 1];
    if (last && entry.seq <= last.seq) return;
    this.journal.push(entry);
    if (!last) return;
    const step = this.stepOf(entry);
    if (step === null) return;
    if (entry.term > last.term) {
      this.marks.push({step, kind: 'restart', text: `supervisor restarted (term ${entry.term})`});
    } else if (entry.generation > last.generation) {
      this.marks.push({step, kind: 'restart', text: `restart: generation ${entry.generation}`});
    }
  }

  /** The step an entry speaks of, else the newest step known. */
  stepOf(entry) {
    const abort = entry.commands?.find((command) => command.type === 'AbortGeneration');
    const named = entry.step ?? abort?.counted_step ?? entry.event?.step;
    if (Number.isFinite(named)) return named;
    const newest = this.branchIds().pop();
    return newest === undefined ? numberOf(this.state?.progress?.step) :
                                  this.branches.get(newest).step.at(-1);
  }

  branchIds() {
    return [...this.branches.keys()].sort((a, b) => a - b);
  }

  /**
   * The line of one column through all branches: {x, y} of what counts, `left` with one {x, y} for the end of each branch
   * that a rollback left (it begins at the point where the ways part), and `at`: where each row came from.
   */
  line(column) {
    const ids = this.branchIds();
    const main = {x: [], y: []};
    const left = [];
    let cut = Infinity;  // steps of this branch from here on were left
    const parts = [];
    for (const id of ids.slice().reverse()) {
      const branch = this.branches.get(id);
      const end = lowerBound(branch.step, cut);
      parts.unshift([branch, end]);
      cut = Math.min(cut, branch.step[0]);
    }
    for (const [branch, end] of parts) {
      for (let i = 0; i < end; ++i) {
        main.x.push(branch.step[i]);
        main.y.push(branch[column][i]);
      }
      if (end < branch.step.length) {
        const begin = Math.max(0, end - 1);
        left.push({branch: branch.id, x: branch.step.slice(begin), y: branch[column].slice(begin)});
      }
    }
    return {main, left};
  }

  /** What happened at which step: rollbacks, restarts, checkpoints, skipped updates, spike onsets. */
  allMarks() {
    const ids = this.branchIds();
    const marks = ids.slice(1).map((id) => (
        {step: this.branches.get(id).step[0], kind: 'rollback', text: `rollback: branch ${id} begins`}));
    // A rollback begins a generation too; one mark says it.
    const rollbacks = marks.map((mark) => mark.step);
    for (const mark of this.marks) {
      if (!rollbacks.some((step) => Math.abs(step - mark.step) <= 1)) marks.push(mark);
    }
    for (const checkpoint of this.state?.checkpoints ?? []) {
      if (checkpoint.state === 'deleted') continue;
      marks.push({step: checkpoint.step, kind: 'checkpoint',
                  text: `checkpoint ${checkpoint.id} (${checkpoint.state})`});
    }
    for (const id of ids) {
      const branch = this.branches.get(id);
      branch.update.forEach((update, i) => {
        if (wasSkipped(update)) {
          marks.push({step: branch.step[i], kind: 'skip', text: `update skipped (${update})`});
        }
      });
    }
    return marks;
  }

  /** The row at `step` on the newest branch that has it, with its branch id; null if there is none. */
  rowAt(step) {
    for (const id of this.branchIds().reverse()) {
      const branch = this.branches.get(id);
      const i = lowerBound(branch.step, step);
      if (branch.step[i] !== step) continue;
      const row = {branch: id, step, update: branch.update[i]};
      for (const column of kColumns) row[column] = branch[column][i];
      return row;
    }
    return null;
  }
}
