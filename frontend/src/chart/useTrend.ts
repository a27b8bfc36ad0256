/**
 * The readings behind a live chart: for each chosen channel its history from the API, continued by the stream. What the stream missed (a lost
 * connection, a hidden page, a source that sends its backlog) is fetched and laid into its place, so that the curve goes on without a hole.
 */
import { onScopeDispose, shallowRef, triggerRef, watch, type ShallowRef } from 'vue'
import { gaps as fetchGaps, series as fetchSeries } from '@/api/client'
import { asProblem, type ApiProblem } from '@/api/problem'
import type { Channel, Gap } from '@/api/types'
import { onBack, onBatch, serverNow, useLive } from '@/live/live.store'
import { Ring } from './ring'

/** Buckets over the range: about one per pixel of a wide chart. */
export const BUCKETS = 600
/** Room for a paused chart to go on collecting. */
const CAPACITY = BUCKETS * 3
const POINTS_MIN = 10
/** A source that catches up brings much at once: its missing stretches are fetched together after this pause. */
const REFILL_AFTER_MS = 800
const REFILL_AGAIN_MS = 2_000
/** A tick that stands for several readings over a longer time than this is a backlog; below it is what a busy machine does in passing. */
const BACKLOG_FROM_MS = 1_000
const BACKLOG_FROM_INTERVALS = 1.5

export interface Trend {
  rings: ShallowRef<ReadonlyMap<string, Ring>>
  state: ShallowRef<'loading' | 'ready' | 'failed'>
  problem: ShallowRef<ApiProblem | null>
  /** From here on (ms) the absence of readings is a fact; before it nothing was asked for yet. */
  knownFrom: ShallowRef<number>
  /** Declared gaps: what the sources say is missing, and why. */
  gaps: ShallowRef<readonly Gap[]>
  reload: () => void
}

export function useTrend(channels: () => readonly Channel[], rangeMs: () => number): Trend {
  const live = useLive()
  const rings = shallowRef<ReadonlyMap<string, Ring>>(new Map())
  const state = shallowRef<'loading' | 'ready' | 'failed'>('loading')
  const problem = shallowRef<ApiProblem | null>(null)
  const gaps = shallowRef<readonly Gap[]>([])
  const knownFrom = shallowRef(Number.POSITIVE_INFINITY)
  let byId = new Map<string, Channel>()
  let turn = 0
  /** From when on (ms) a ring is to be read anew. */
  const missing = new Map<string, number>()
  let refillTimer: ReturnType<typeof setTimeout> | undefined

  async function history(ids: readonly string[], target: ReadonlyMap<string, Ring>, from: number, to: number, points: number): Promise<void> {
    const answer = await fetchSeries(ids, { fromUs: Math.floor(from * 1000), toUs: Math.ceil(to * 1000) }, points)
    for (const part of answer) target.get(part.event_public_id)?.merge(part, from, to)
  }

  /** Reads what is chosen and not yet there; with `all` everything anew (another range needs other buckets). Old curves stay until then. */
  async function load(all: boolean): Promise<void> {
    const mine = ++turn
    const chosen = channels()
    byId = new Map(chosen.map((channel) => [channel.public_id, channel]))
    const range = rangeMs()
    const kept = all ? new Map<string, Ring>() : rings.value
    const next = new Map<string, Ring>()
    for (const { public_id } of chosen) next.set(public_id, kept.get(public_id) ?? new Ring(range / BUCKETS, CAPACITY))
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
    try {
      const [declared] = await Promise.all([
        fetchGaps({ fromUs: Math.floor(from * 1000), toUs: Math.ceil(to * 1000) }),
        history(wanted, next, from, to, BUCKETS),
      ])
      if (mine !== turn) return
      rings.value = next
      // The rings may be the ones shown already, now with their history in them.
      triggerRef(rings)
      knownFrom.value = Math.min(from, all ? from : knownFrom.value)
      gaps.value = declared
      problem.value = null
      state.value = 'ready'
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
      const backlogFrom = Math.max(BACKLOG_FROM_MS, BACKLOG_FROM_INTERVALS * (channel.expected_interval_ms ?? 0), rangeMs() / BUCKETS)
      if (!taken) miss(id, time - rangeMs() / BUCKETS)
      else if (count > 1 && time - newest > backlogFrom) miss(id, newest)
    }
  })

  function noteMissing(id: string, from: number): void {
    missing.set(id, Math.min(missing.get(id) ?? from, from))
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

  /** Fetches what is missing, up to now, with the resolution of the chart. A failure is no failure of the chart: it is tried again. */
  async function refill(): Promise<void> {
    const spans = [...missing]
    missing.clear()
    if (spans.length === 0) return
    const ids = spans.map(([id]) => id).filter((id) => rings.value.has(id))
    const to = serverNow()
    const from = Math.max(Math.min(...spans.map(([, since]) => since)), to - rangeMs())
    if (ids.length === 0 || to <= from) return
    const width = rangeMs() / BUCKETS
    const points = Math.min(BUCKETS, Math.max(POINTS_MIN, Math.ceil((to - from) / width)))
    try {
      await history(ids, rings.value, from, to, points)
      gaps.value = await fetchGaps({ fromUs: Math.floor((serverNow() - rangeMs()) * 1000), toUs: Math.ceil(serverNow() * 1000) })
    } catch {
      for (const [id, since] of spans) noteMissing(id, since)
      refillSoon(REFILL_AGAIN_MS)
    }
  }

  const forgetBack = onBack((lastHeardAt) => {
    for (const [id, ring] of rings.value) noteMissing(id, Number.isNaN(ring.newest) ? lastHeardAt : Math.min(ring.newest, lastHeardAt))
    if (state.value === 'failed') void load(true)
    else void live.fillingWhile(refill())
  })

  watch(rangeMs, () => void load(true))
  watch(() => channels().map((channel) => channel.public_id).join(), () => void load(false), { immediate: true })
  onScopeDispose(() => {
    forgetBatches()
    forgetBack()
    clearTimeout(refillTimer)
    turn += 1
  })

  return { rings, state, problem, knownFrom, gaps, reload: () => void load(true) }
}
