/**
 * One socket to the backend that comes back by itself: ticket, open, subscribe, listen; after a break wait a little longer each time, with
 * chance mixed in so that many browsers do not return together. It knows nothing of Vue and nothing of what the messages mean.
 */
import { ApiProblem } from '@/api/problem'
import type { StreamMessage } from './messages'

export const STREAM_PATH = '/ws/datapoints/stream'

const PING_MS = 5_000
/** A status comes every second. Silence as long as this is a dead line, however open the socket claims to be. */
const SILENCE_MS = 8_000
const BACKOFF_FIRST_MS = 400
const BACKOFF_MAX_MS = 10_000
/** Close codes of the backend. */
export const SESSION_ENDED = 4401

export type StreamState =
  | { phase: 'stopped' }
  /** Before the first connection. */
  | { phase: 'starting' }
  | { phase: 'live' }
  /** Broken since `since` (ms); try number `attempt` is under way, or starts at `retryAt`. */
  | { phase: 'lost'; since: number; attempt: number; retryAt: number | null }

export interface StreamOptions {
  ticket: () => Promise<string>
  open: (ticket: string) => WebSocket
  intervalMs: number
  onMessage: (message: StreamMessage, receivedAt: number) => void
  onState: (state: StreamState) => void
  onSessionEnded: () => void
  now?: () => number
  random?: () => number
}

export interface Stream {
  start(): void
  stop(): void
  /** Tries at once instead of waiting for the next turn. */
  retry(): void
}

/** How long to wait before try `attempt` (from 1), in ms: doubling from 0.4 s to 10 s, of which a random half is taken off. */
export function backoffMs(attempt: number, random: number): number {
  const full = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (attempt - 1))
  return Math.round(full * (0.5 + random / 2))
}

export function createStream(options: StreamOptions): Stream {
  const now = options.now ?? Date.now
  const random = options.random ?? Math.random
  let socket: WebSocket | null = null
  let wanted = false
  /** Counts starts and stops: what a slow ticket brings after a stop belongs to nobody. */
  let turn = 0
  let attempt = 0
  let lostAt = 0
  let retryTimer: ReturnType<typeof setTimeout> | undefined
  let pingTimer: ReturnType<typeof setInterval> | undefined
  let silenceTimer: ReturnType<typeof setTimeout> | undefined

  function drop(): void {
    clearTimeout(retryTimer)
    clearInterval(pingTimer)
    clearTimeout(silenceTimer)
    if (!socket) return
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null
    socket.close()
    socket = null
  }

  function lost(): void {
    drop()
    if (!wanted) return
    attempt += 1
    if (lostAt === 0) lostAt = now()
    const wait = backoffMs(attempt, random())
    options.onState({ phase: 'lost', since: lostAt, attempt, retryAt: now() + wait })
    retryTimer = setTimeout(() => void connect(), wait)
  }

  function ended(): void {
    wanted = false
    turn += 1
    drop()
    options.onState({ phase: 'stopped' })
    options.onSessionEnded()
  }

  function heard(): void {
    clearTimeout(silenceTimer)
    silenceTimer = setTimeout(lost, SILENCE_MS)
  }

  async function connect(): Promise<void> {
    const mine = ++turn
    options.onState(attempt === 0 ? { phase: 'starting' } : { phase: 'lost', since: lostAt, attempt, retryAt: null })
    let ticket: string
    try {
      ticket = await options.ticket()
    } catch (cause) {
      if (mine !== turn) return
      if (cause instanceof ApiProblem && cause.status === 401) ended()
      else lost()
      return
    }
    if (mine !== turn) return
    const opened = options.open(ticket)
    socket = opened
    heard()
    opened.onopen = () => {
      opened.send(JSON.stringify({ type: 'subscribe', events: 'all', interval_ms: options.intervalMs }))
      pingTimer = setInterval(() => opened.send('{"type":"ping"}'), PING_MS)
    }
    opened.onmessage = (event: MessageEvent<string>) => {
      heard()
      const message = JSON.parse(event.data) as StreamMessage
      if (message.type === 'connected') {
        attempt = 0
        lostAt = 0
        options.onState({ phase: 'live' })
      }
      options.onMessage(message, now())
    }
    opened.onclose = (event: CloseEvent) => {
      if (event.code === SESSION_ENDED) ended()
      else lost()
    }
  }

  return {
    start() {
      if (wanted) return
      wanted = true
      attempt = 0
      lostAt = 0
      void connect()
    },
    stop() {
      if (!wanted) return
      wanted = false
      turn += 1
      drop()
      options.onState({ phase: 'stopped' })
    },
    retry() {
      if (!wanted || socket) return
      clearTimeout(retryTimer)
      void connect()
    },
  }
}
