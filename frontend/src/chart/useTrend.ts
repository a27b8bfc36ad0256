/**
 * The readings behind a live chart: for each chosen channel its history from the API, continued by the stream. What the stream missed (a lost
 * connection, a hidden page, a source that sends its backlog) is fetched and laid into its place, so that the curve goes on without a hole.
 */
import { onScopeDispose, shallowRef, triggerRef, watch, type ShallowRef } from 'vue'
import { gaps as fetchGaps, series as fetchSeries } from '@/api/client'
import { asProblem, type ApiProblem } from '@/api/problem'
import type { Channel, Gap } from '@/api/types'
import { onBatch, onPreviews, onStreaming, serverNow, useLive } from '@/live/live.store'
import type { Stretch } from './bands'
import { Ring } from './ring'

/** Buckets over the range: about one per pixel of a wide chart. */
export const BUCKETS = 600
/** Room for a paused chart to go on collecting. */
const CAPACITY = BUCKETS * 3
/** Previews are kept for an hour in two points a second; of a longer outage the oldest leave the picture. */
const PREVIEW_MS = 500
const PREVIEW_CAPACITY = 7_200
const POINTS_MIN = 10
/** A source that catches up brings much at once: its missing stretches are fetched together after this pause. */
const REFILL_AFTER_MS = 800
const REFILL_AGAIN_MS = 2_000
/** What was sampled longer ago than this is stored and has come by the stream, if nothing is wrong. */
const SETTLED_MS = 500
/** A tick that stands for several readings over a longer time than this is a backlog; below it is what a busy machine does in passing. */
const BACKLOG_FROM_MS = 1_000
const BACKLOG_FROM_INTERVALS = 1.5

export interface Trend {
  rings: ShallowRef<ReadonlyMap<string, Ring>>
  /** Readings that were shown before they were stored. Those that are newer than the newest of `rings` are not stored yet. */
  previews: ShallowRef<ReadonlyMap<string, Ring>>
  state: ShallowRef<'loading' | 'ready' | 'failed'>
  problem: ShallowRef<ApiProblem | null>
  /** From here on (ms) the absence of readings is a fact; before it nothing was asked for yet. */
  knownFrom: ShallowRef<number>
  /** Readings from here on (ms) are still to be fetched: their absence is no fact yet. null: none are. */
  pendingFrom: ShallowRef<number | null>
  /** Declared gaps: what the sources say is missing, and why. */
  gaps: ShallowRef<readonly Gap[]>
  reload: () => void
}

export function useTrend(channels: () => readonly Channel[], rangeMs: () => number): Trend {
  const live = useLive()
  const rings = shallowRef<ReadonlyMap<string, Ring>>(new Map())
  const previews = shallowRef<ReadonlyMap<string, Ring>>(new Map())
  const state = shallowRef<'loading' | 'ready' | 'failed'>('loading')
  const problem = shallowRef<ApiProblem | null>(null)
  const gaps = shallowRef<readonly Gap[]>([])
  const pendingFrom = shallowRef<number | null>(null)
  const knownFrom = shallowRef(Number.POSITIVE_INFINITY)
  let byId = new Map<string, Channel>()
  let turn = 0
  /** What of a ring is to be read anew (ms). */
  const missing = new Map<string, Stretch>()
  /** Channels whose backlog is being stored, and up to when (ms) they had come before it. */
  const lateFrom = new Map<string, number>()
  let refillTimer: ReturnType<typeof setTimeout> | undefined

  /** Reads whole buckets of the rings anew. `to` is the end of one. */
  async function history(ids: readonly string[], target: ReadonlyMap<string, Ring>, since: number, to: number): Promise<void> {
    const from = Math.min(Math.floor(since / width()) * width(), to - POINTS_MIN * width())
    const answer = await fetchSeries(ids, { fromUs: from * 1000, toUs: to * 1000 }, Math.round((to - from) / width()))
    for (const part of answer) target.get(part.event_public_id)?.merge(part, from, to)
  }

  /** Reads what is chosen and not yet there; with `all` everything anew (another range needs other buckets). Old curves stay until then. */
  async function load(all: boolean): Promise<void> {
    const mine = ++turn
    const chosen = channels()
    byId = new Map(chosen.map((channel) => [channel.public_id, channel]))
    const range = rangeMs()
    for (const id of [...previews.value.keys()].filter((one) => !byId.has(one))) forgetPreviews(id)
    const kept = all ? new Map<string, Ring>() : rings.value
    const next = new Map<string, Ring>()
    for (const { public_id } of chosen) next.set(public_id, kept.get(public_id) ?? new Ring(width(), CAPACITY))
    const wanted = chosen.map((channel) => channel.public_id).filter((id) => !kept.has(id))
    if (!all) rings.value = next
    if (wanted.length === 0) {
      rings.value = next
      state.value = 'ready'
      return
    }
    // Ticks that come while the history is under way are kept in the new rings, and stay there when it is laid under them.
    arriving = next
    if (rings.value.size === 0 || state.value === 'failed') state.value = 'loading'
    const to = serverNow()
    const from = to - range
    const sure = settled()
    try {
      const [declared] = await Promise.all([
        fetchGaps({ fromUs: Math.floor(from * 1000), toUs: Math.ceil(to * 1000) }),
        history(wanted, next, from, soon(to)),
      ])
      if (mine !== turn) return
      rings.value = next
      // The rings may be the ones shown already, now with their history in them.
      triggerRef(rings)
      knownFrom.value = Math.min(from, all ? from : knownFrom.value)
      gaps.value = declared
      problem.value = null
      state.value = 'ready'
      // What came by the stream meanwhile may be in the history too: the newest buckets are read once more when they have settled.
      for (const id of wanted) miss(id, sure)
    } catch (cause) {
      if (mine !== turn) return
      problem.value = asProblem(cause)
      state.value = 'failed'
    } finally {
      if (mine === turn) arriving = null
    }
  }

  let arriving: ReadonlyMap<string, Ring> | null = null

  const forgetBatches = onBatch((points, times) => {
    const now = serverNow()
    for (let i = 0; i < points.length; i += 1) {
      const point = points[i]!
      const id = point.event_public_id
      const channel = byId.get(id)
      if (!channel) continue
      const current = rings.value.get(id)
      const time = times[i]!
      const count = point.n ?? 1
      const newest = current?.newest ?? Number.NaN
      const taken = current?.push(time, point.value, point.min ?? point.value, point.max ?? point.value, count) ?? true
      const incoming = arriving?.get(id)
      if (incoming !== current) incoming?.push(time, point.value, point.min ?? point.value, point.max ?? point.value, count)
      // Many readings in one tick after a silence are a backlog: one point would draw them as a hole. Late ones belong further back.
      const backlogFrom = Math.max(BACKLOG_FROM_MS, BACKLOG_FROM_INTERVALS * (channel.expected_interval_ms ?? 0), width())
      if (!taken) miss(id, time - width())
      else if (count > 1 && time - newest > backlogFrom) miss(id, newest)
      // A backlog comes in ticks that each stand for many readings. When it has come to its end, all of it is read anew, reading by reading.
      if (now - time > BACKLOG_FROM_MS) lateFrom.set(id, lateFrom.get(id) ?? (Number.isNaN(newest) ? time : newest))
      else if (lateFrom.has(id)) {
        miss(id, lateFrom.get(id)!)
        lateFrom.delete(id)
      }
    }
  })

  const forgetShown = onPreviews((shown, times) => {
    for (let i = 0; i < shown.length; i += 1) {
      const { event_public_id: id, value } = shown[i]!
      if (byId.has(id)) previewsOf(id).push(times[i]!, value, value, value, 1)
    }
  })

  function previewsOf(id: string): Ring {
    const known = previews.value.get(id)
    if (known) return known
    const ring = new Ring(PREVIEW_MS, PREVIEW_CAPACITY)
    previews.value = new Map(previews.value).set(id, ring)
    return ring
  }

  function forgetPreviews(id: string): void {
    const left = new Map(previews.value)
    left.delete(id)
    previews.value = left
  }

  const width = (): number => rangeMs() / BUCKETS
  const endOfBucket = (time: number): number => Math.ceil(time / width()) * width()

  /** The end of a bucket that the newest reading lies before, though its source's clock may be a little ahead. */
  const soon = (now: number): number => endOfBucket(now) + width()

  /** Up to here (the end of a bucket) all is stored that will be, and the stream has brought it; what is newer comes by the stream alone. */
  const settled = (): number => Math.floor((serverNow() - SETTLED_MS) / width()) * width()

  function noteMissing(id: string, from: number, to = serverNow()): void {
    const known = missing.get(id)
    missing.set(id, { from: Math.min(known?.from ?? from, from), to: Math.max(known?.to ?? to, to) })
    pendingFrom.value = Math.min(pendingFrom.value ?? from, from)
  }

  function miss(id: string, from: number): void {
    noteMissing(id, from)
    refillSoon(REFILL_AFTER_MS)
  }

  function refillSoon(afterMs: number): void {
    refillTimer ??= setTimeout(() => {
      refillTimer = undefined
      void live.fillingWhile(refill())
    }, afterMs)
  }

  /**
   * Fetches what is missing, with the resolution of the chart. Stream and history must not share a bucket, or its readings would count twice:
   * where the missing stretch reaches beyond what is settled it is shown at once and read once more later. A failure is no failure of the
   * chart: it is tried again.
   */
  async function refill(): Promise<void> {
    const stretches = [...missing].filter(([id]) => rings.value.has(id))
    missing.clear()
    const end = settled()
    const until = Math.max(...stretches.map(([, stretch]) => stretch.to))
    const from = Math.max(Math.min(...stretches.map(([, stretch]) => stretch.from)), serverNow() - rangeMs())
    if (stretches.length === 0) return settle()
    const whole = end >= until
    try {
      const ids = stretches.map(([id]) => id)
      await history(ids, rings.value, from, whole ? end : soon(serverNow()))
      if (!whole) {
        for (const id of ids) noteMissing(id, end)
        refillSoon(Math.max(REFILL_AFTER_MS, endOfBucket(serverNow()) + SETTLED_MS - serverNow()))
      }
      settle()
      gaps.value = await fetchGaps({ fromUs: Math.floor((serverNow() - rangeMs()) * 1000), toUs: Math.ceil(serverNow() * 1000) })
    } catch {
      for (const [id, stretch] of stretches) noteMissing(id, stretch.from, stretch.to)
      refillSoon(REFILL_AGAIN_MS)
    }
  }

  function settle(): void {
    pendingFrom.value = missing.size ? Math.min(...[...missing.values()].map((stretch) => stretch.from)) : null
  }

  const forgetStreaming = onStreaming((since) => {
    for (const [id, ring] of rings.value) noteMissing(id, Number.isNaN(ring.newest) ? since : Math.min(ring.newest, since))
    if (state.value === 'failed') void load(true)
    else void live.fillingWhile(refill())
  })

  watch(rangeMs, () => void load(true))
  watch(() => channels().map((channel) => channel.public_id).join(), () => void load(false), { immediate: true })
  onScopeDispose(() => {
    forgetBatches()
    forgetShown()
    forgetStreaming()
    clearTimeout(refillTimer)
    turn += 1
  })

  return { rings, previews, state, problem, knownFrom, pendingFrom, gaps, reload: () => void load(true) }
}
