/**
 * A stretch of one channel's readings as buckets, oldest first: from and to, smallest, largest and last value, count. Fixed room, so a chart
 * that has run for a month costs what it cost at its start. Times are ms since 1970.
 */
import type { Series } from '@/api/types'

export class Ring {
  readonly capacity: number
  /** Buckets in use. */
  length = 0
  private head = 0
  private readonly columns: { from: Float64Array; to: Float64Array; min: Float64Array; max: Float64Array; last: Float64Array; n: Float64Array }

  /** `widthMs`: readings whose times fall into the same multiple of it share a bucket. */
  constructor(
    readonly widthMs: number,
    capacity: number,
  ) {
    this.capacity = capacity
    const column = (): Float64Array => new Float64Array(capacity)
    this.columns = { from: column(), to: column(), min: column(), max: column(), last: column(), n: column() }
  }

  private slot(index: number): number {
    return (this.head + index) % this.capacity
  }

  from = (index: number): number => this.columns.from[this.slot(index)]!
  to = (index: number): number => this.columns.to[this.slot(index)]!
  min = (index: number): number => this.columns.min[this.slot(index)]!
  max = (index: number): number => this.columns.max[this.slot(index)]!
  last = (index: number): number => this.columns.last[this.slot(index)]!
  n = (index: number): number => this.columns.n[this.slot(index)]!

  /** The time of the newest reading, NaN when there is none. */
  get newest(): number {
    return this.length ? this.to(this.length - 1) : Number.NaN
  }

  /** Appends what one tick brought. What is not newer than the newest is refused (false): it belongs into the past and comes by `merge`. */
  push(time: number, last: number, min: number, max: number, n: number): boolean {
    if (this.length) {
      const end = this.slot(this.length - 1)
      const c = this.columns
      if (time <= c.to[end]!) return false
      if (Math.floor(time / this.widthMs) === Math.floor(c.from[end]! / this.widthMs)) {
        c.to[end] = time
        c.last[end] = last
        c.min[end] = Math.min(c.min[end]!, min)
        c.max[end] = Math.max(c.max[end]!, max)
        c.n[end]! += n
        return true
      }
    }
    this.append(time, time, min, max, last, n)
    return true
  }

  private append(from: number, to: number, min: number, max: number, last: number, n: number): void {
    if (this.length === this.capacity) this.head = (this.head + 1) % this.capacity
    else this.length += 1
    const slot = this.slot(this.length - 1)
    const c = this.columns
    c.from[slot] = from
    c.to[slot] = to
    c.min[slot] = min
    c.max[slot] = max
    c.last[slot] = last
    c.n[slot] = n
  }

  /**
   * Lays stored history over the span [from, to]: buckets inside it are replaced, those outside stay. Buckets newer than the last of the history
   * stay too: they came over the socket while the history was under way.
   */
  merge(series: Series, from: number, to: number): void {
    const count = series.t0.length
    const end = count ? series.t1[count - 1]! / 1000 : from
    const kept: number[][] = []
    const tail: number[][] = []
    for (let i = 0; i < this.length; i += 1) {
      const row = [this.from(i), this.to(i), this.min(i), this.max(i), this.last(i), this.n(i)]
      // A bucket that lies across an edge of the span stays whole: its extremes are true, and a reading shown twice is better than one lost.
      if (this.from(i) < from) kept.push(row)
      else if (this.to(i) > Math.min(to, end)) tail.push(row)
    }
    this.clear()
    for (const row of kept) this.append(row[0]!, row[1]!, row[2]!, row[3]!, row[4]!, row[5]!)
    for (let i = 0; i < count; i += 1) {
      const end = series.t1[i]! / 1000
      if (this.length && end <= this.newest) continue
      this.append(series.t0[i]! / 1000, end, series.min[i]!, series.max[i]!, series.last[i]!, series.n[i]!)
    }
    for (const row of tail) {
      if (this.length === 0 || row[1]! > this.newest) this.append(row[0]!, row[1]!, row[2]!, row[3]!, row[4]!, row[5]!)
    }
  }

  clear(): void {
    this.head = 0
    this.length = 0
  }

  /** The first bucket that ends at `time` or later; `length` when there is none. */
  indexAt(time: number): number {
    let low = 0
    let high = this.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.to(middle) < time) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The bucket nearest to `time`, at most `within` away; -1 when there is none. */
  nearest(time: number, within: number): number {
    if (this.length === 0) return -1
    const after = Math.min(this.indexAt(time), this.length - 1)
    const distance = (index: number): number => Math.max(this.from(index) - time, time - this.to(index), 0)
    const best = after > 0 && distance(after - 1) < distance(after) ? after - 1 : after
    return distance(best) <= within ? best : -1
  }
}
