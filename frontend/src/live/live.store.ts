/**
 * The live side of the application: one stream, the newest readings, what the backend says of itself once a second. The store holds what few
 * components show (state, sources, rates); readings stay in `latest` and are announced by `onBatch`.
 */
import { defineStore } from 'pinia'
import { computed, ref, shallowRef } from 'vue'
import { socketTicket } from '@/api/client'
import { Latest } from './latest'
import type { Datapoint, Preview, SourceStatus, StatusMessage, StreamMessage } from './messages'
import { createStream, STREAM_PATH, type StreamState } from './stream'

/** How often the backend is asked for a batch. Ten a second is what an eye follows; more would be drawn for nobody. */
const INTERVAL_MS = 100
const HISTORY_S = 60
/** The clock's offset is the best of this many seconds: a slow message can only make the backend look late, never early. */
const OFFSET_SAMPLES = 60
/** Before there are so many, messages held up while the page was loading would make every delay look like none. */
const OFFSET_SAMPLES_MIN = 3
const LATENCY_SAMPLES = 600
/** A preview older than this is no sign any more that its source is there and catching up. */
const PREVIEW_FRESH_MS = 3_000
const LATENCY_PER_BATCH = 16

export const latest = new Latest()

type BatchListener = (points: readonly Datapoint[], times: Float64Array) => void
type PreviewListener = (previews: readonly Preview[], times: Float64Array) => void
const batchListeners = new Set<BatchListener>()
const previewListeners = new Set<PreviewListener>()
const configListeners = new Set<(what: string) => void>()
const backListeners = new Set<() => void>()
const streamingListeners = new Set<(since: number) => void>()

/** Hears every batch of stored readings, `times` in ms beside it. Returns how to stop hearing. */
export function onBatch(listener: BatchListener): () => void {
  batchListeners.add(listener)
  return () => batchListeners.delete(listener)
}

/** Hears every batch of readings that are not stored, `times` in ms beside it. Returns how to stop hearing. */
export function onPreviews(listener: PreviewListener): () => void {
  previewListeners.add(listener)
  return () => previewListeners.delete(listener)
}

/** Hears what was changed in the configuration ("events", "sources", ...). */
export function onConfig(listener: (what: string) => void): () => void {
  configListeners.add(listener)
  return () => configListeners.delete(listener)
}

/** Hears that the stream is back after a break. */
export function onBack(listener: () => void): () => void {
  backListeners.add(listener)
  return () => backListeners.delete(listener)
}

/**
 * Hears that from now on every reading comes by the stream, also for the first time, and since when it did not (ms, in the backend's time):
 * what was stored between is to be fetched.
 */
export function onStreaming(listener: (since: number) => void): () => void {
  streamingListeners.add(listener)
  return () => streamingListeners.delete(listener)
}

let offsets: number[] = []
let offsetMs = 0

/** The backend's clock as this browser knows it, ms since 1970. Ages are told by it: the browser's own clock may be wrong by hours. */
export const serverNow = (): number => Date.now() + offsetMs

function noteServerTime(text: string, receivedAt: number): void {
  const sample = Date.parse(text) - receivedAt
  if (Number.isNaN(sample)) return
  offsets.push(sample)
  if (offsets.length > OFFSET_SAMPLES) offsets.shift()
  offsetMs = Math.max(...offsets)
}

/** ms since 1970 of an RFC 3339 time, with its microseconds (Date.parse keeps three digits). */
export function parseTime(text: string): number {
  const whole = Date.parse(text)
  const dot = text.indexOf('.')
  if (dot < 0) return whole
  const micros = text.slice(dot + 4, dot + 7)
  return /^\d{3}$/.test(micros) ? whole + Number(micros) / 1000 : whole
}

export const useLive = defineStore('live', () => {
  const state = shallowRef<StreamState>({ phase: 'stopped' })
  const status = shallowRef<StatusMessage | null>(null)
  const sources = shallowRef<readonly SourceStatus[]>([])
  const storedHistory = shallowRef<readonly number[]>([])
  const plant = ref<string | null>(null)
  /** p50 and p99 of sampled to drawn, ms, over the last readings drawn. */
  const drawn = shallowRef<{ p50: number; p99: number } | null>(null)
  /** How long the stream was away, ms, while what was missed is being fetched. */
  const filling = ref<number | null>(null)

  let lastHeardAt = 0
  let lostFrom = 0
  /** Since when the backend says that it cannot store, in its own time; null while it can. */
  const unstoredSince = ref<number | null>(null)
  /** The time of the newest reading that is known to be stored, ms in the backend's time; null before the first. */
  const storedUntil = ref<number | null>(null)
  /** Channels whose value is not stored yet, though their source is there. */
  const unstored = ref(0)
  let newestStored = Number.NaN
  const latencies = new Float64Array(LATENCY_SAMPLES)
  let latencyCount = 0
  let undrawn: number[] = []
  let frame = 0
  let onEnded: () => void = () => undefined
  let fills = 0
  let fillTimer: ReturnType<typeof setTimeout> | undefined

  const live = computed(() => state.value.phase === 'live')
  const lost = computed(() => (state.value.phase === 'lost' ? state.value : null))

  function take(points: readonly Datapoint[], fresh: boolean): void {
    const times = new Float64Array(points.length)
    for (let i = 0; i < points.length; i += 1) {
      const point = points[i]!
      const time = parseTime(point.timestamp)
      times[i] = time
      if (!(newestStored >= time)) newestStored = time
      latest.put(point.event_public_id, time, point.value, point.min ?? point.value, point.max ?? point.value, point.n ?? 1)
      if (fresh && i < LATENCY_PER_BATCH) undrawn.push(time)
    }
    if (fresh) {
      for (const listener of batchListeners) listener(points, times)
      if (!frame) frame = requestAnimationFrame(measure)
    }
  }

  function show(previews: readonly Preview[]): void {
    const times = new Float64Array(previews.length)
    for (let i = 0; i < previews.length; i += 1) {
      const preview = previews[i]!
      times[i] = parseTime(preview.timestamp)
      latest.putPreview(preview.event_public_id, times[i]!, preview.value)
    }
    for (const listener of previewListeners) listener(previews, times)
  }

  /** Runs in the frame that draws a batch: the difference to the sampling time is what the person at the screen lives with. */
  function measure(): void {
    frame = 0
    if (offsets.length < OFFSET_SAMPLES_MIN) undrawn = []
    const now = serverNow()
    for (const time of undrawn) {
      latencies[latencyCount % LATENCY_SAMPLES] = Math.max(0, now - time)
      latencyCount += 1
    }
    undrawn = []
  }

  function summarizeLatency(): void {
    const size = Math.min(latencyCount, LATENCY_SAMPLES)
    if (size === 0) return
    const sorted = latencies.slice(0, size).sort()
    drawn.value = { p50: sorted[Math.floor(size * 0.5)]!, p99: sorted[Math.min(size - 1, Math.floor(size * 0.99))]! }
  }

  function receive(message: StreamMessage, receivedAt: number): void {
    switch (message.type) {
      case 'connected': {
        offsets = []
        latencyCount = 0
        drawn.value = null
        noteServerTime(message.server_time, receivedAt)
        plant.value = message.plant ?? null
        lostFrom = lastHeardAt
        break
      }
      case 'snapshot':
        take(message.datapoints, false)
        announce(lostFrom, receivedAt)
        break
      case 'datapoints_batch':
        take(message.datapoints, true)
        if (message.previews) show(message.previews)
        break
      case 'status':
        noteServerTime(message.server_time, receivedAt)
        status.value = message
        sources.value = message.sources
        storedHistory.value = [...storedHistory.value.slice(1 - HISTORY_S), message.stored_per_s]
        unstoredSince.value = message.storing ? null : (unstoredSince.value ?? Date.parse(message.server_time))
        storedUntil.value = Number.isNaN(newestStored) ? null : newestStored
        unstored.value = latest.unstored(serverNow() - PREVIEW_FRESH_MS)
        summarizeLatency()
        break
      case 'config':
        for (const listener of configListeners) listener(message.what)
        break
      case 'pong':
        break
    }
    lastHeardAt = receivedAt
  }

  /** `heardAt`: when the stream was last heard before it broke, 0 at the first time. */
  function announce(heardAt: number, receivedAt: number): void {
    clearTimeout(fillTimer)
    filling.value = heardAt ? receivedAt - heardAt : null
    fills = 0
    for (const listener of streamingListeners) listener((heardAt || receivedAt) + offsetMs)
    if (heardAt) for (const listener of backListeners) listener()
    settleFill()
  }

  function settleFill(): void {
    if (fills === 0) fillTimer = setTimeout(() => (filling.value = null), 1500)
  }

  /** Keeps "Filling ..." on the screen until `work` is done. */
  async function fillingWhile(work: Promise<unknown>): Promise<void> {
    fills += 1
    clearTimeout(fillTimer)
    try {
      await work
    } finally {
      fills -= 1
      settleFill()
    }
  }

  const stream = createStream({
    ticket: () => socketTicket(STREAM_PATH),
    open: (ticket) => {
      const address = new URL(STREAM_PATH, location.href)
      address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:'
      address.searchParams.set('ticket', ticket)
      return new WebSocket(address)
    },
    intervalMs: INTERVAL_MS,
    onMessage: receive,
    onState: (next) => (state.value = next),
    onSessionEnded: () => onEnded(),
  })

  // A hidden page draws nothing, so it asks for nothing; on return the history brings what it has missed.
  function followVisibility(): void {
    if (document.hidden) stream.stop()
    else stream.start()
  }

  function start(sessionEnded: () => void): void {
    onEnded = sessionEnded
    document.addEventListener('visibilitychange', followVisibility)
    followVisibility()
  }

  function stop(): void {
    document.removeEventListener('visibilitychange', followVisibility)
    stream.stop()
    lastHeardAt = 0
    state.value = { phase: 'stopped' }
  }

  return {
    state, status, sources, storedHistory, plant, drawn, filling, unstoredSince, storedUntil, unstored, live, lost,
    start, stop, retry: stream.retry, fillingWhile,
  }
})
