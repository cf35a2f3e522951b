// What the page reads and asks for. In a recording there is no server: it plays what it holds.

const held = document.getElementById("recording");
export const recording = held ? JSON.parse(held.textContent) : null;

let token = "";
if (!recording) {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  token = sessionStorage.getItem("token") || "";
}

export const mayChange = () => Boolean(token);

export async function get(path) {
  if (recording) {
    if (path in recording.answers) return recording.answers[path];
    throw new Error("A recording does not hold this. Start the stack: whiteboard up");
  }
  return answer(await fetch(path));
}

export async function post(path, body) {
  return answer(await send(path, body));
}

async function send(path, body) {
  if (recording) throw new Error("This is a recording. Start the stack: whiteboard up");
  return fetch(path, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

async function answer(response) {
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  const detail = Array.isArray(found.detail) ? found.detail.map((d) => d.msg).join("; ") : found.detail;
  throw new Error(found.error || detail || `the page's server answered ${response.status}`);
}

// Server-Sent Events of a POST, one by one.
export async function* events(path) {
  const response = await send(path);
  if (!response.ok) await answer(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split(/\r?\n/).filter((l) => !l.startsWith(":")).map((line) => {
        const at = line.indexOf(":");
        return [line.slice(0, at), line.slice(at + 1).trim()];
      }));
      if (fields.data) yield [fields.event || "message", JSON.parse(fields.data)];
    }
  }
}

const RETRY_MS = 3000;

// Live state once a second; nothing is read while the page is hidden.
export function watch(onTick, onStatus) {
  if (recording) {
    let next = 0;
    onStatus(`recorded ${recording.at.slice(0, 10)}`);
    const play = () => onTick(recording.ticks[next++ % recording.ticks.length]);
    play();
    setInterval(play, 1000);
    return;
  }
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource("/api/stream");
    source.onmessage = (event) => { onStatus("live"); onTick(JSON.parse(event.data)); };
    // A browser tries again by itself, but not after an answer that is no stream.
    source.onerror = () => {
      onStatus("the page's server does not answer");
      if (source?.readyState === EventSource.CLOSED) { source = null; setTimeout(open, RETRY_MS); }
    };
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}
