// The panels beside the charts: layout, agents, supervision tree, checkpoints, loss spikes. Each takes the state and brings its element up
// to date.
import {element, setData, setText, syncChildren} from './dom.js';
import {formatBytes, formatClock, formatNumber, formatSeconds, kMissing, numberOf} from './format.js';

const kHealthy = new Set(['up', 'training', 'finished']);
const kNumbered = new Set(['agent_proxy', 'worker_proxy', 'agent', 'worker']);

/** The actor tree, as the supervisor's parents and children really are; an actor whose parent is not listed is a root. */
export function showTree(container, count, actors) {
  const ids = new Set(actors.map((actor) => actor.id));
  const children = new Map();
  for (const actor of actors) {
    const parent = ids.has(actor.parent) && actor.parent !== actor.id ? actor.parent : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(actor);
  }
  // As they were started, but agents and workers by their numbers: a replaced one keeps its line.
  const place = (actor) => kNumbered.has(actor.kind) ? actor.name : '';
  for (const list of children.values()) {
    list.sort((a, b) => place(a).localeCompare(place(b), undefined, {numeric: true}));
  }
  let list = container.querySelector('ul');
  if (!list) {
    list = element('ul');
    container.append(list);
  }
  showBranch(list, children, null);
  const up = actors.filter((actor) => kHealthy.has(actor.state)).length;
  setText(count, actors.length ? `${up} of ${actors.length} up` : '');
}

function showBranch(list, children, parent) {
  syncChildren(list, children.get(parent) ?? [], (actor) => actor.id, () => {
    const line = () => [element('span.dot'), element('span.name'), element('span.tag'), element('span.detail')];
    return element('li', element('details', {open: ''}, element('summary', ...line()), element('ul')));
  }, (item, actor) => {
    const details = item.firstElementChild;
    const [dot, name, tag, detail] = details.firstElementChild.children;
    setData(item, 'state', kHealthy.has(actor.state) ? 'up' : actor.state);
    setData(item, 'leaf', String(!children.has(actor.id)));
    dot.title = actor.state;
    setText(name, actor.name || actor.id);
    setText(tag, kHealthy.has(actor.state) ? '' : actor.state);
    const facts = [];
    if (actor.pid) facts.push(`pid ${actor.pid}`);
    if (actor.restarts) facts.push(`${actor.restarts} restart${actor.restarts === 1 ? '' : 's'}`);
    if (actor.detail) facts.push(actor.detail);
    setText(detail, facts.join(' \u00b7 '));
    const since = formatClock(actor.since);
    const title = `${actor.kind}, ${actor.state}${since === kMissing ? '' : ` since ${since}`}`;
    if (details.firstElementChild.title !== title) details.firstElementChild.title = title;
    showBranch(details.lastElementChild, children, actor.id);
  });
}

/** One row a pipeline stage, one column a data-parallel replica, in each cell the ranks of its tensor-parallel group. */
export function showRanks(container, ranks) {
  const replicas = [...new Set(ranks.map((rank) => rank.dp_rank ?? 0))].sort((a, b) => a - b);
  const stages = [...new Set(ranks.map((rank) => rank.stage ?? 0))].sort((a, b) => a - b);
  const shape = `${stages.join()}/${replicas.join()}`;
  if (container.dataset.shape !== shape) {
    container.dataset.shape = shape;
    const head = element('tr', element('td'),
                         ...replicas.map((replica) => element('th', {scope: 'col'}, `replica ${replica}`)));
    const body = stages.map((stage) => element(
        'tr', element('th', {scope: 'row'}, `stage ${stage}`),
        ...replicas.map((replica) => element('td', {'data-cell': `${stage}/${replica}`}))));
    container.replaceChildren(element('table', element('thead', head), element('tbody', ...body)));
    if (ranks.length === 0) container.replaceChildren(element('p.empty', 'no ranks yet'));
  }
  for (const cell of container.querySelectorAll('td[data-cell]')) {
    const own = ranks.filter((rank) => `${rank.stage ?? 0}/${rank.dp_rank ?? 0}` === cell.dataset.cell);
    syncChildren(cell, own, (rank) => rank.rank, () => element(
        'div.rank', element('span.dot'), element('b'), element('span.detail'), element('span.pace')), (node, rank) => {
      setData(node, 'state', rank.state);
      setData(node, 'straggles', String(rank.straggles === true));
      setText(node.children[1], `rank ${rank.rank}`);
      setText(node.children[2], rank.state === 'training' ? placeOf(rank) : `${placeOf(rank)} \u00b7 ${rank.state}`);
      setText(node.children[3], paceOf(rank));
      const straggles = rank.straggles ? ', straggles' : '';
      const trouble = rank.device_trouble ? `; GPU: ${rank.device_trouble}` : '';
      const title = `${rank.state} on agent ${rank.agent}, slot ${rank.slot}, pid ${rank.pid}, ` +
                    `incarnation ${rank.incarnation}, ${rank.restarts} restarts${straggles}${trouble}`;
      if (node.title !== title) node.title = title;
    });
  }
}

/** A worker's name, as in the supervision tree: its agent and slot. */
const placeOf = (worker) => `${worker.agent}.${worker.slot}`;

/** Its own time in a step over that of its peers or of its past; nothing before that is known. */
function paceOf(rank) {
  const score = numberOf(rank.straggler_score);
  return score === null ? '' : `\u00d7${score.toFixed(2)}`;
}

/** "dp 2 x pp 2, 4 ranks", and what the run is to have where that differs. */
export function layoutText(layout, target) {
  if (!layout) return '';
  const words = (d) => [`dp ${d.dp}`, ...(d.tp > 1 ? [`tp ${d.tp}`] : []), `pp ${d.pp}`].join(' \u00d7 ');
  const now = words(layout);
  return target && words(target) !== now ? `${now} (of ${words(target)})` : now;
}

export function showSpares(list, spares) {
  list.hidden = spares.length === 0;
  syncChildren(list, spares, placeOf, () => element(
      'li.rank', element('span.dot'), element('b', 'spare'), element('span.detail')), (node, spare) => {
    const isUp = spare.state === 'fresh';  // a process without weights: what a spare is
    setData(node, 'state', isUp ? 'up' : spare.state);
    setText(node.children[2], isUp ? placeOf(spare) : `${placeOf(spare)} \u00b7 ${spare.state}`);
    const title = `spare on agent ${spare.agent}, slot ${spare.slot}, pid ${spare.pid}`;
    if (node.title !== title) node.title = title;
  });
}

export function showAgents(container, count, agents) {
  const workers = (agent) => agent.ranks === undefined ? kMissing :
      [agent.ranks, ...(agent.spares > 0 ? [`${agent.spares} spare`] : [])].join(' + ');
  const state = (agent) => agent.state +
      (agent.excluded_until ? ` until ${formatClock(agent.excluded_until)}` : '') + (agent.joined ? ', joined' : '');
  showTable(container, ['Agent', 'Host', 'State', 'Ranks', 'Restarts', 'Pid'], agents, (agent) => agent.agent,
            (agent) => [String(agent.agent), agent.host || kMissing, state(agent), workers(agent),
                        String(agent.restarts ?? kMissing), agent.pid ? String(agent.pid) : kMissing],
            'none yet');
  const up = agents.filter((agent) => agent.state === 'up').length;
  setText(count, agents.length ? `${up} of ${agents.length} up` : '');
}

/** A table with fixed columns; `cells(item)` gives the texts. */
function showTable(container, titles, items, keyOf, cells, emptyText) {
  let body = container.querySelector('tbody');
  if (!body) {
    body = element('tbody');
    const head = element('tr', ...titles.map((title) => element('th', {scope: 'col'}, title)));
    container.append(element('table', element('thead', head), body), element('p.empty', emptyText));
  }
  container.dataset.empty = String(items.length === 0);
  syncChildren(body, items, keyOf, () => element('tr', ...titles.map(() => element('td'))),
               (row, item) => {
                 setData(row, 'state', item.state ?? item.verdict ?? '');
                 cells(item).forEach((text, i) => setText(row.children[i], text));
               });
}

export function showCheckpoints(container, count, checkpoints) {
  const newestFirst = [...checkpoints].reverse();
  showTable(container, ['Step', 'State', 'Size', 'Took', 'Branch', 'Id'], newestFirst,
            (checkpoint) => checkpoint.id,
            (checkpoint) => [String(checkpoint.step), checkpoint.state, formatBytes(checkpoint.bytes),
                             formatSeconds(checkpoint.seconds), String(checkpoint.branch),
                             String(checkpoint.id)],
            'none yet');
  const kept = checkpoints.filter((c) => c.state !== 'deleted' && c.state !== 'writing').length;
  setText(count, checkpoints.length ? `${kept} kept` : '');
}

export function showSpikes(container, status, spikes, detector) {
  showTable(container, ['Onset', 'Verdict', 'Reason'], [...spikes].reverse(),
            (spike) => `${spike.step}/${spike.verdict}/${spike.onset}`,
            (spike) => [String(spike.onset ?? kMissing), spike.verdict, spike.reason],
            'none seen');
  const baseline = detector?.baseline === undefined || detector?.baseline === null ?
      '' : `, baseline ${formatNumber(detector.baseline, 3)}`;
  setText(status, detector?.state ? `detector ${detector.state}${baseline}` : '');
}
