// Types of wharf.js.

/** What happens to the session after a handler returns. Without a value it proceeds. */
export type Action = "proceed" | "close" | "abort";

/** Scheduling class of a session, lowest first. */
export type Priority = "background" | "low" | "normal" | "high" | "critical";

/** Why a write was refused. None of its bytes is sent. */
export type WriteError = "closed" | "too-large" | "timed-out";

/** Why a session is over. */
export type DisconnectReason =
  | "peer-closed" | "peer-reset" | "peer-truncated" | "closed-by-plugin" | "idle-timeout" | "write-timeout"
  | "evicted" | "server-stopped" | "first-byte-timeout" | "min-rate" | "session-timeout";

/** Values that the TLS handshake negotiated. */
export interface TlsInfo {
  protocol: string;
  cipherSuite: string;
  serverName: string | null;
  alpn: string | null;
  clientSubject: string | null;
}

/** The client of a session, as the host knows it. */
export interface ClientInfo {
  /** Unique for the life of the server, from 1. */
  id: number;
  server: string;
  peerAddress: string;
  peerPort: number;
  localAddress: string;
  localPort: number;
  tls: TlsInfo | null;
  priority: Priority;
  parameter: number;
}

/** The session whose event is being handled. */
export const session: {
  info(): ClientInfo;
  /**
   * Queues all of `data` for the peer and returns null, or queues nothing and returns the error.
   * Waits while the peer does not read.
   */
  write(data: Uint8Array): WriteError | null;
  /** Writes and proceeds, or closes if the write is refused. The usual last line of a handler. */
  writeOrClose(data: Uint8Array): Action;
  /** Bytes that can be queued now without waiting. */
  writeCapacity(): number;
  /** Asks for another class from the next event on. Returns the class in force. */
  setPriority(priority: Priority): Priority;
  /**
   * Fires onTimer(id) once after that time; 0 cancels the timer. Returns false if the session
   * already has its limit of timers.
   */
  setTimer(id: number, afterMs: number): boolean;
};

/** Settings of the operator for this plugin. */
export const settings: { get(key: string): string | null };

export function bytes(text: string): Uint8Array;
export function text(bytes: Uint8Array): string;
export function log(...values: unknown[]): void;

/** A session. Leave out the handlers that you do not need. */
export interface EventProc {
  onConnect?(client: ClientInfo): Action | void;
  /** Called when 1 to 65,536 bytes arrived, cut anywhere. */
  onRead?(data: Uint8Array): Action | void;
  /** Called when the send buffer has drained. */
  onWrite?(): Action | void;
  onTimeout?(idleMs: number): Action | void;
  onTimer?(id: number): Action | void;
  /** Called when the peer has finished sending. Default: close. */
  onEnd?(): Action | void;
  onDisconnect?(reason: DisconnectReason): void;
  /** Returns the state that the next version needs to continue this session. Changes nothing. */
  save(): Uint8Array;
  /**
   * Fills the object of a session that another version saved, instead of onConnect. Return a text
   * for the operator to refuse the state.
   */
  restore(version: string, state: Uint8Array): string | void;
}

/** The exports of the component. */
export function eventProcedure(type: new () => EventProc): { inetEventProc: object; handoff: object };
