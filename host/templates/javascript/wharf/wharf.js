// Write a Wharf event procedure in JavaScript: a class, with one object for each session.
//
//     import { eventProcedure, session } from "../wharf/wharf.js";
//
//     class Echo {
//       onRead(data) { return session.writeOrClose(data); }
//     }
//
//     export const { inetEventProc, handoff } = eventProcedure(Echo);
//
// wharf.d.ts has the types, with their descriptions.
import * as host from "wharf:server/session@0.1.0";
import * as store from "wasi:config/store@0.2.0-rc.1";
import { getStderr } from "wasi:cli/stderr@0.2.6";

export const session = {
  info: () => host.info(),

  write(data) {
    try {
      host.write(data);
      return null;
    } catch (error) {
      // The contract's errors are words. Any other error is a mistake in the plugin.
      const word = typeof error === "string" ? error : error?.payload ?? error?.message;
      if (["closed", "too-large", "timed-out"].includes(word)) return word;
      throw error;
    }
  },

  writeOrClose: (data) => (session.write(data) === null ? "proceed" : "close"),
  writeCapacity: () => host.writeCapacity(),
  setPriority: (priority) => host.setPriority(priority),
  setTimer: (id, afterMs) => host.setTimer(id, afterMs),
};

export const settings = {
  get(key) {
    try {
      return store.get(key) ?? null;
    } catch {
      return null;
    }
  },
};

/** Text as UTF-8. This runtime has no TextEncoder. */
export function bytes(text) {
  const encoded = unescape(encodeURIComponent(text));
  return Uint8Array.from(encoded, (character) => character.charCodeAt(0));
}

/** UTF-8 as text. Throws if the bytes are not UTF-8. */
export function text(bytes) {
  let encoded = "";
  for (const byte of bytes) encoded += String.fromCharCode(byte);
  return decodeURIComponent(escape(encoded));
}

/** Writes a line to the host's log. */
export function log(...values) {
  getStderr().blockingWriteAndFlush(bytes(values.join(" ") + "\n"));
}

/** The exports of the component. They pass each event to the object of its session. */
export function eventProcedure(Type) {
  // One session, unless the operator lets the sessions of a server share an instance.
  const sessions = new Map();

  function current() {
    if (sessions.size === 1) return sessions.values().next().value;
    const id = host.info().id;
    if (!sessions.has(id)) sessions.set(id, new Type());
    return sessions.get(id);
  }

  // An error ends the session. Its stack goes to the log first.
  function handle(act) {
    try {
      return act();
    } catch (error) {
      log(`${error}\n${error?.stack ?? ""}`.trimEnd());
      throw error;
    }
  }

  const event = (name, otherwise) => (argument) =>
    handle(() => {
      const plugin = current();
      return plugin[name] ? (plugin[name](argument) ?? "proceed") : otherwise;
    });

  const inetEventProc = {
    onConnect: (client) =>
      handle(() => {
        const plugin = new Type();
        sessions.set(client.id, plugin);
        return plugin.onConnect?.(client) ?? "proceed";
      }),
    onRead: event("onRead", "proceed"),
    onWrite: event("onWrite", "proceed"),
    onTimeout: event("onTimeout", "proceed"),
    onTimer: event("onTimer", "proceed"),
    onEnd: event("onEnd", "close"),
    onDisconnect: (reason) =>
      handle(() => {
        current().onDisconnect?.(reason);
        sessions.delete(host.info().id);
      }),
  };

  const handoff = {
    save: () => handle(() => current().save()),
    restore(version, state) {
      const plugin = new Type();
      const refusal = handle(() => plugin.restore(version, state));
      // A refusal is an error in the contract.
      if (typeof refusal === "string") throw refusal;
      sessions.set(host.info().id, plugin);
    },
  };

  return { inetEventProc, handoff };
}
