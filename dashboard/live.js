// Brings the server's data to the page: one snapshot of everything, then every event after it. Events that arrive while
// a snapshot is being read are kept and applied on top; the store drops what the snapshot already held.
import {openStream} from './stream.js';

const kRetryMs = 1500;

/** `handlers`: onLink(up), onSnapshot({state, metrics, journal}), onEvent(name, data). */
export function follow(handlers) {
  let waiting = [];  // events during a snapshot; null when there is none in progress
  let reading = false;
  let again = false;
  let started = false;

  const read = async (path) => {
    const answer = await fetch(path, {cache: 'no-store'});
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  };

  const readSnapshot = async () => {
    again = true;
    if (reading) return;
    reading = true;
    while (again) {
      again = false;
      waiting = [];
      try {
        const [state, metrics, journal] =
            await Promise.all([read('/api/state'), read('/api/metrics'), read('/api/journal')]);
        handlers.onSnapshot({state, metrics, journal});
        for (const [name, data] of waiting) handlers.onEvent(name, data);
        waiting = null;
      } catch {
        again = true;
        await new Promise((resolve) => setTimeout(resolve, kRetryMs));
      }
    }
    reading = false;
  };

  const receive = (message) => {
    if (message.type === 'link') {
      handlers.onLink(message.up);
      if (message.up && !started) {
        started = true;
        readSnapshot();
      }
    } else if (message.type === 'reload') {
      if (started) readSnapshot();
    } else if (waiting !== null) {
      waiting.push([message.name, message.data]);
    } else {
      handlers.onEvent(message.name, message.data);
    }
  };

  if (typeof SharedWorker === 'function') {
    try {
      const worker = new SharedWorker('/live_worker.js', {type: 'module', name: 'tenax'});
      worker.onerror = () => openStream(receive);
      worker.port.onmessage = (event) => receive(event.data);
      addEventListener('pagehide', () => worker.port.postMessage('bye'));
      // A page kept by the browser for "back" was forgotten by the worker.
      addEventListener('pageshow', (event) => event.persisted && location.reload());
      return;
    } catch {
      // Private windows of some browsers refuse workers.
    }
  }
  openStream(receive);
}
