// The connection to the server's event stream, kept alive for ever. Used by live_worker.js (one connection for all tabs:
// browsers allow six to a host) or, without SharedWorker, by the page itself. Calls `send` with
//   {type: 'link', up}            whether the stream is open now
//   {type: 'reload'}              events were missed: read everything again
//   {type: 'event', name, data}   an event, data already parsed

const kRetryMs = 1000;
const kProbeMs = 3000;

export function openStream(send) {
  let source = null;
  let up = null;
  let greeted = false;
  let heard = Date.now();

  const setUp = (value) => {
    if (up !== value) send({type: 'link', up: value});
    up = value;
  };

  const connect = () => {
    source = new EventSource('/events');
    let fresh = true;
    // The first event on every connection is "hello" (nothing was missed) or "reset".
    const greet = (missed) => {
      heard = Date.now();
      if (missed || (fresh && greeted)) send({type: 'reload'});
      fresh = false;
      greeted = true;
      setUp(true);
    };
    source.addEventListener('hello', () => greet(false));
    source.addEventListener('reset', () => greet(true));
    for (const name of ['step', 'journal', 'state']) {
      source.addEventListener(name, (event) => {
        heard = Date.now();
        send({type: 'event', name, data: JSON.parse(event.data)});
      });
    }
    source.onerror = () => {
      setUp(false);
      // An HTTP error (503: too many streams) ends an EventSource for good; a lost connection does not.
      if (source.readyState === EventSource.CLOSED) {
        source.close();
        setTimeout(connect, kRetryMs);
      }
    };
  };

  // A server that hangs closes nothing, and heartbeat comments are not visible here: ask.
  setInterval(async () => {
    if (Date.now() - heard < kProbeMs || source.readyState !== EventSource.OPEN) return;
    try {
      const answer = await fetch('/healthz', {cache: 'no-store', signal: AbortSignal.timeout(kProbeMs)});
      if (source.readyState === EventSource.OPEN) setUp(answer.ok);
    } catch {
      setUp(false);
    }
  }, kProbeMs);

  connect();
  return {isUp: () => up === true};
}
