// SharedWorker: holds the only event stream of all open tabs of this server.
import {openStream} from './stream.js';

const ports = new Set();
const stream = openStream((message) => {
  for (const port of ports) port.postMessage(message);
});

onconnect = (event) => {
  const port = event.ports[0];
  ports.add(port);
  port.onmessage = (message) => {
    if (message.data === 'bye') ports.delete(port);
  };
  if (stream.isUp()) port.postMessage({type: 'link', up: true});
};
