// The journal panel: newest entry on top, filtered by text and weight; an opened entry shows its JSON.
import {element, setText, syncChildren} from './dom.js';
import {formatClock} from './format.js';

const kMaxShown = 300;
const kSeverities = ['info', 'notice', 'warning', 'error'];

/** Whether an entry has words for people; every step and shard has entries that are only routine. */
export function isTold(entry) {
  return (entry.severity ?? 'info') !== 'info' ||
         (entry.commands ?? []).some((command) => command.type === 'Note' || command.type === 'Finish');
}

export class JournalView {
  constructor({list, count, filter, severity}) {
    this.list = list;
    this.count = count;
    this.filter = filter;
    this.severity = severity;
    this.entries = [];
    list.append(element('div.entries'), element('p.empty', 'nothing yet'));
    filter.addEventListener('input', () => this.show(this.entries));
    severity.addEventListener('change', () => this.show(this.entries));
  }

  matches(entry, words) {
    const shown = this.severity.value;
    if (shown === 'told' ? !isTold(entry) :
                           kSeverities.indexOf(entry.severity) < kSeverities.indexOf(shown)) return false;
    if (words.length === 0) return true;
    const text = `${entry.seq} ${entry.kind} ${entry.severity} ${entry.text}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }

  show(entries) {
    this.entries = entries;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = [];
    let matching = 0;
    for (let i = entries.length - 1; i >= 0; --i) {
      if (!this.matches(entries[i], words)) continue;
      ++matching;
      if (shown.length < kMaxShown) shown.push(entries[i]);
    }
    // A reader who has scrolled down keeps the lines in view while new ones come in above.
    const below = this.list.scrollTop > 4 ? this.list.scrollHeight - this.list.scrollTop : null;
    syncChildren(this.list.firstElementChild, shown, (entry) => entry.seq, (entry) => this.make(entry), () => {});
    if (below !== null) this.list.scrollTop = this.list.scrollHeight - below;
    this.list.dataset.empty = String(shown.length === 0);
    setText(this.list.lastElementChild, entries.length === 0 ? 'nothing yet' : 'nothing matches');
    setText(this.count, matching === entries.length && shown.length === matching ?
        `${entries.length} entries` : `${shown.length} of ${entries.length}`);
  }

  make(entry) {
    const summary = element('summary', element('time', formatClock(entry.time)),
                            element('span.kind', entry.kind ?? ''), element('span.text', entry.text ?? ''));
    const details = element('details', {'data-severity': entry.severity ?? 'info'}, summary);
    details.addEventListener('toggle', () => {
      if (details.open && details.children.length === 1) {
        details.append(element('pre', JSON.stringify(entry, null, 2)));
      }
    });
    return details;
  }
}
