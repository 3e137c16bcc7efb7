// What wharf.js offers.

/** What happens to the session after a handler returns. Nothing returned is "proceed". */
export type Action = "proceed" | "close" | "abort";

/** Scheduling class of a session, lowest first. */
export type Priority = "background" | "low" | "normal" | "high" | "critical";

/** Why a write was not taken. Nothing of it was sent. */
export type WriteError = "closed" | "too-large" | "timed-out";

/** Why a session is over. */
export type DisconnectReason =
  | "peer-closed" | "peer-reset" | "peer-truncated" | "closed-by-plugin" | "idle-timeout" | "write-timeout"
  | "evicted" | "server-stopped" | "first-byte-timeout" | "min-rate" | "session-timeout";

/** What the TLS handshake settled. */
export interface TlsInfo {
  protocol: string;
  cipherSuite: string;
  serverName: string | null;
  alpn: string | null;
  clientSubject: string | null;
}

/** What the host knows about the client. */
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
  /** Queues all of it for the peer, or nothing: then why. Waits while the peer does not read. */
  write(data: Uint8Array): WriteError | null;
  /** Writes and proceeds, or closes where it was not taken: the usual last line of a handler. */
  writeOrClose(data: Uint8Array): Action;
  /** Bytes that can be queued now without waiting. */
  writeCapacity(): number;
  /** Asks for another class from the next event on; returns the one in force. */
  setPriority(priority: Priority): Priority;
  /** Fires onTimer(id) once; 0 cancels it. False where the session has its limit of timers. */
  setTimer(id: number, afterMs: number): boolean;
};

/** Settings that the operator wrote. */
export const settings: { get(key: string): string | null };

export function bytes(text: string): Uint8Array;
export function text(bytes: Uint8Array): string;
export function log(...values: unknown[]): void;

/** What a session is. Leave out what you do not need. */
export interface EventProc {
  onConnect?(client: ClientInfo): Action | void;
  /** 1 to 65,536 bytes arrived, cut anywhere. */
  onRead?(data: Uint8Array): Action | void;
  /** The send buffer has drained. */
  onWrite?(): Action | void;
  onTimeout?(idleMs: number): Action | void;
  onTimer?(id: number): Action | void;
  /** The peer has finished sending. Default: close. */
  onEnd?(): Action | void;
  onDisconnect?(reason: DisconnectReason): void;
  /** What the next version needs to carry on with this session. Changes nothing. */
  save(): Uint8Array;
  /** Takes a session over, in place of onConnect. A text that is returned refuses it, and says why. */
  restore(version: string, state: Uint8Array): string | void;
}

/** What the component exports. */
export function eventProcedure(type: new () => EventProc): { inetEventProc: object; handoff: object };
