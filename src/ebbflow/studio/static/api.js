// The way to the server: JSON, forms, and streams of events.

const KEY = "ebbflow-token";
let askToken = async () => null;

/** What is asked for the token when the server wants one. */
export function onToken(ask) { askToken = ask; }

/** An error that the server put into words. */
export class Refused extends Error {
  constructor(message, status, param) { super(message); this.status = status; this.param = param; }
}

async function send(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("dead", 0, null);
  }
  if (answer.status === 401) {
    const given = await askToken();
    if (given) { sessionStorage.setItem(KEY, given); return send(path, options); }
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  try {
    const { error } = await answer.json();
    return new Refused(error.message, answer.status, error.param);
  } catch {
    return new Refused(`${answer.status}`, answer.status, null);
  }
}

export async function get(path, query = {}) {
  const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return (await send(given.size ? `${path}?${given}` : path)).json();
}

const JSON_HEAD = { "content-type": "application/json" };

export async function post(path, body) {
  return (await send(path, { method: "POST", headers: JSON_HEAD, body: JSON.stringify(body) })).json();
}

/** A form of a request and pictures. */
export function form(request, files) {
  const data = new FormData();
  data.append("request", JSON.stringify(request));
  for (const [name, blob] of Object.entries(files)) data.append(name, blob, `${name}.png`);
  return data;
}

export async function postForm(path, data) { return (await send(path, { method: "POST", body: data })).json(); }

/** A picture of the server as something an <img> can show. */
export async function picture(path, query) { return URL.createObjectURL(await (await send(`${path}?${new URLSearchParams(query)}`)).blob()); }

/** The text of a page of the server. */
export async function text(path, query) { return (await send(`${path}?${new URLSearchParams(query)}`)).text(); }

/** Events of a stream, each { name, data }, until it ends or `signal` aborts it. */
export async function* events(path, body, signal) {
  const isForm = body instanceof FormData;
  const answer = await send(path, { method: "POST", signal, headers: isForm ? {} : JSON_HEAD, body: isForm ? body : JSON.stringify(body) });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [name, data] = block.split("\n");
      yield { name: name.slice(7), data: JSON.parse(data.slice(6)) };
    }
  }
}
