// The few document helpers of the page. Lists are updated in place, keyed, so that focus, selection, scroll position and opened
// details survive a refresh five times a second.

/** element('span.count', 'text') or element('td', {title: '...'}, child, ...). */
export function element(name, ...parts) {
  const [tag, ...classes] = name.split('.');
  const node = document.createElement(tag);
  if (classes.length > 0) node.className = classes.join(' ');
  for (const part of parts) {
    if (part instanceof Node || typeof part === 'string') node.append(part);
    else for (const [key, value] of Object.entries(part)) node.setAttribute(key, value);
  }
  return node;
}

/** Writes only what changed: no repaint, and a screen reader is not told the same again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, key, value) {
  if (node.dataset[key] !== value) node.dataset[key] = value;
}

/** Makes the children of `parent` match `items`: one node for each key, made once, updated every time, in order. */
export function syncChildren(parent, items, keyOf, make, update) {
  const known = new Map();
  for (const child of parent.children) known.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = known.get(key);
    if (node) {
      known.delete(key);
    } else {
      node = make(item);
      node.dataset.key = key;
    }
    update(node, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of known.values()) node.remove();
}
