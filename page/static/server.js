// Requests to the page's server: few at once, the most urgent first.

const AT_ONCE = 3;
const waiting = [];
let running = 0;

export async function info() {
  return (await fetch("info.json")).json();
}

// Colours of a photograph as a file; `urgency` gives a number, and the least goes first.
export function colour(photo, network, options, signal, urgency = () => 0) {
  const headers = {};
  for (const [name, value] of Object.entries(options)) {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    // Headers are ASCII.
    headers[`X-Colorize-${name}`] = text.replace(/[^ -~]/g, (one) =>
      "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
  }
  return new Promise((resolve, reject) => {
    const start = () => post(`colour/${network}`, photo, headers, signal)
      .then((reply) => reply.blob()).then(resolve, reject);
    waiting.push({ start, urgency });
    next();
  });
}

async function next() {
  while (waiting.length && running < AT_ONCE) {
    waiting.sort((one, other) => one.urgency() - other.urgency());
    running += 1;
    waiting.shift().start().finally(() => { running -= 1; next(); });
  }
}

async function post(url, body, headers, signal) {
  signal?.throwIfAborted();
  try {
    await body.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("It cannot be read. If it is a folder, open it and drop its photographs.");
  }
  let reply;
  try {
    reply = await fetch(url, { method: "POST", body, headers, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The page's server does not answer. Start it again, then try again.");
  }
  if (reply.ok) return reply;
  const failure = await reply.json().catch(() => ({}));
  throw new Error(failure.message ?? `The server answered ${reply.status}.`);
}
