/** What a chart needs to know of its rings before it draws: where readings are missing, how far the axis goes, which look a curve has. */
import type { Channel } from '@/api/types'
import type { Ring } from './ring'
import { staleAfterMs } from '@/live/latest'

export interface Stretch {
  from: number
  to: number
}

export interface Curve {
  channel: Channel
  ring: Ring
  /** Readings shown before they were stored, if there were any: see `firstPreview`. */
  previews: Ring | null
  /** Place among the chosen channels, from 0: says colour and dash. */
  slot: number
}

/** Channels that share a unit, drawn over one axis. */
export interface Pane {
  unit: string
  curves: Curve[]
}

export const CURVES_MAX = 20
const COLOURS = 8

/** Which of the eight series colours, 1 to 8. */
export const colourOf = (slot: number): number => (slot % COLOURS) + 1

/** The dash of a slot in px: 5 to 8 dashed, 9 to 16 dotted, 17 to 20 dash-dotted, so that no two curves differ by hue alone. */
export function dashOf(slot: number): number[] {
  if (slot < 4) return []
  if (slot < 8) return [6, 3]
  return slot < 16 ? [1.5, 3] : [6, 3, 1.5, 3]
}

/** One pane per unit, in the order in which units were first chosen. */
export function panesOf(curves: readonly Curve[]): Pane[] {
  const panes = new Map<string, Pane>()
  for (const curve of curves) {
    const pane = panes.get(curve.channel.unit) ?? { unit: curve.channel.unit, curves: [] }
    pane.curves.push(curve)
    panes.set(curve.channel.unit, pane)
  }
  return [...panes.values()]
}

/** The index of the first preview that is newer than everything stored; `length` when the ring of previews holds none. */
export function firstPreview({ ring, previews }: Curve): number {
  if (!previews) return 0
  if (Number.isNaN(ring.newest)) return 0
  const first = previews.indexAt(ring.newest)
  return first < previews.length && previews.to(first) === ring.newest ? first + 1 : first
}

/** What a curve shows last, stored or not; null when nothing. */
export function newestOf(curve: Curve): { time: number; value: number; preview: boolean } | null {
  const { ring, previews } = curve
  if (previews && firstPreview(curve) < previews.length) return { time: previews.newest, value: previews.last(previews.length - 1), preview: true }
  return ring.length ? { time: ring.newest, value: ring.last(ring.length - 1), preview: false } : null
}

/** From which distance between two readings the curve is interrupted, ms. */
export const gapAfterMs = (channel: Channel): number => staleAfterMs(channel.expected_interval_ms)

/** Stretches inside [from, to] in which none of the curves has a reading. Before a channel exists, nothing of it is missing. */
export function silence(curves: readonly Curve[], start: number, to: number): Stretch[] {
  const from = Math.max(start, Math.min(...curves.map((curve) => Date.parse(curve.channel.created_on))))
  if (from >= to) return []
  const covered: Stretch[] = []
  for (const curve of curves) {
    const { channel, ring, previews } = curve
    const reach = gapAfterMs(channel)
    const own: Stretch[] = []
    const cover = (readings: Ring, first: number): void => {
      for (let i = first; i < readings.length && readings.from(i) <= to; i += 1) {
        const open = own.at(-1)
        if (open && readings.from(i) - open.to <= reach) open.to = readings.to(i)
        else own.push({ from: readings.from(i), to: readings.to(i) })
      }
    }
    cover(ring, ring.indexAt(from))
    // What is not stored yet is not missing.
    if (previews) cover(previews, Math.max(firstPreview(curve), previews.indexAt(from)))
    // The time between the last reading and now is no gap before the channel counts as stale.
    const last = own.at(-1)
    if (last && to - last.to <= reach) last.to = to
    covered.push(...own)
    const first = ring.length ? ring.indexAt(from) : -1
    if (first > 0 && first < ring.length && ring.from(first) - ring.to(first - 1) <= reach) covered.push({ from, to: ring.from(first) })
  }
  covered.sort((a, b) => a.from - b.from)
  const shortest = Math.min(...curves.map((curve) => gapAfterMs(curve.channel)), Infinity)
  const missing: Stretch[] = []
  let end = from
  for (const stretch of covered) {
    if (stretch.from - end > shortest) missing.push({ from: end, to: stretch.from })
    end = Math.max(end, stretch.to)
  }
  if (to - end > shortest) missing.push({ from: end, to })
  return missing
}

/** The same time once: stretches of several panes that overlap or touch are one. */
export function joined(stretches: readonly Stretch[]): Stretch[] {
  const all: Stretch[] = []
  for (const stretch of [...stretches].sort((a, b) => a.from - b.from)) {
    const last = all.at(-1)
    if (last && stretch.from <= last.to) last.to = Math.max(last.to, stretch.to)
    else all.push({ ...stretch })
  }
  return all
}

export interface Bounds {
  min: number
  max: number
}

/** Smallest and largest value of the curves inside [from, to]; null when there is none. */
export function extent(curves: readonly Curve[], from: number, to: number): Bounds | null {
  let min = Infinity
  let max = -Infinity
  const include = (readings: Ring, first: number): void => {
    for (let i = first; i < readings.length && readings.from(i) <= to; i += 1) {
      min = Math.min(min, readings.min(i))
      max = Math.max(max, readings.max(i))
    }
  }
  for (const curve of curves) {
    include(curve.ring, curve.ring.indexAt(from))
    if (curve.previews) include(curve.previews, Math.max(firstPreview(curve), curve.previews.indexAt(from)))
  }
  return min <= max ? { min, max } : null
}

/** 1, 2, 2.5 or 5 times a power of ten, the first at or above `rough`. */
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough))
  const times = rough / power
  return (times <= 1 ? 1 : times <= 2 ? 2 : times <= 2.5 ? 2.5 : times <= 5 ? 5 : 10) * power
}

const STEPS = 4
/** An axis is kept as long as the readings fill at least this part of it: it moves seldom, and then by whole steps. */
const KEEP_FROM = 0.3
/** The declared range of the channels is the axis when the readings fill at least this part of it. */
const DECLARED_FROM = 0.25
/** A share of a whole is read against the whole: one percent of load must not fill the picture. */
const WHOLE = '%'

/** The axis for readings within `seen`: the declared range where that is readable, else whole steps around them, and no move without need. */
export function axisBounds(seen: Bounds | null, previous: Bounds | null, declared: Bounds | null, unit = ''): Bounds {
  if (!seen) return previous ?? declared ?? { min: 0, max: 1 }
  const span = seen.max - seen.min
  const fills = declared && (unit === WHOLE || span >= DECLARED_FROM * (declared.max - declared.min))
  if (fills && seen.min >= declared.min && seen.max <= declared.max) return declared
  if (previous && seen.min >= previous.min && seen.max <= previous.max && span >= KEEP_FROM * (previous.max - previous.min)) return previous
  const least = Math.max(Math.abs(seen.max), Math.abs(seen.min), 1e-9) * 1e-3
  const room = Math.max(span, least) * 0.05
  const step = niceStep((Math.max(span, least) + 2 * room) / STEPS)
  let min = Math.floor((seen.min - room) / step) * step
  let max = Math.ceil((seen.max + room) / step) * step
  // Room around the readings must not invent values outside the declared range (no percent below 0).
  if (declared && seen.min >= declared.min) min = Math.max(min, declared.min)
  if (declared && seen.max <= declared.max) max = Math.min(max, declared.max)
  return { min, max }
}

/** The range that all channels declare alike, else null. */
export function declaredBounds(curves: readonly Curve[]): Bounds | null {
  const first = curves[0]?.channel
  if (first?.min_value == null || first.max_value == null) return null
  const same = curves.every(({ channel }) => channel.min_value === first.min_value && channel.max_value === first.max_value)
  return same ? { min: first.min_value, max: first.max_value } : null
}

/** How many readings stand behind one drawn point, at worst, in [from, to]. 1: every reading is shown. */
export function decimation(curves: readonly Curve[], from: number, to: number): number {
  let worst = 1
  for (const { ring } of curves) {
    let readings = 0
    let points = 0
    for (let i = ring.indexAt(from); i < ring.length && ring.from(i) <= to; i += 1) {
      readings += ring.n(i)
      points += 1
    }
    if (points) worst = Math.max(worst, readings / points)
  }
  return worst
}

/** How many stored readings stand behind the whole points of [from, to], and the first and the last instant of those points (ms). */
export function shownReadings(curves: readonly Curve[], from: number, to: number): { count: number; from: number; to: number } {
  const shown = { count: 0, from: Infinity, to: -Infinity }
  for (const { ring } of curves) {
    for (let i = ring.indexAt(from); i < ring.length && ring.to(i) <= to; i += 1) {
      if (ring.from(i) < from) continue
      shown.count += ring.n(i)
      shown.from = Math.min(shown.from, ring.from(i))
      shown.to = Math.max(shown.to, ring.to(i))
    }
  }
  return shown
}

/** Heights for labels at `wanted` (ascending px) with at least `gap` between them, inside [top, bottom]. */
export function spread(wanted: readonly number[], gap: number, top: number, bottom: number): number[] {
  const placed: number[] = []
  for (const [i, y] of wanted.entries()) placed.push(Math.max(y, i ? placed[i - 1]! + gap : top))
  for (let i = placed.length - 1; i >= 0; i -= 1) {
    const limit = i === placed.length - 1 ? bottom : placed[i + 1]! - gap
    placed[i] = Math.min(placed[i]!, limit)
  }
  return placed
}
