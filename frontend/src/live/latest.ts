/**
 * The newest reading of every channel, in columns: one number array per property, one slot per channel. Nothing here is reactive; whoever draws
 * asks once per animation frame which slots have changed.
 */
export interface Reading {
  /** ms since 1970, with fractions. */
  time: number
  value: number
  min: number
  max: number
  /** Readings since the tick before. */
  n: number
  /** Shown before it was stored: it may still get lost. */
  preview: boolean
}

const GROWTH = 64

export class Latest {
  private slots = new Map<string, number>()
  private capacity = 0
  private time = new Float64Array(0)
  private value = new Float64Array(0)
  private min = new Float64Array(0)
  private max = new Float64Array(0)
  private count = new Uint32Array(0)
  private isPreview = new Uint8Array(0)
  private version = new Uint32Array(0)

  private slotOf(id: string): number {
    const known = this.slots.get(id)
    if (known !== undefined) return known
    const slot = this.slots.size
    if (slot >= this.capacity) this.grow()
    this.slots.set(id, slot)
    this.time[slot] = Number.NaN
    return slot
  }

  private grow(): void {
    this.capacity = Math.max(GROWTH, this.capacity * 2)
    const longer = <A extends Float64Array | Uint32Array | Uint8Array>(old: A, fresh: A): A => {
      fresh.set(old)
      return fresh
    }
    this.time = longer(this.time, new Float64Array(this.capacity))
    this.value = longer(this.value, new Float64Array(this.capacity))
    this.min = longer(this.min, new Float64Array(this.capacity))
    this.max = longer(this.max, new Float64Array(this.capacity))
    this.count = longer(this.count, new Uint32Array(this.capacity))
    this.isPreview = longer(this.isPreview, new Uint8Array(this.capacity))
    this.version = longer(this.version, new Uint32Array(this.capacity))
  }

  /**
   * Takes a stored reading. One older than what is known changes nothing: late readings are history, not the present, and a backlog that is
   * being stored does not hide a preview before it has come as far.
   */
  put(id: string, time: number, value: number, min: number, max: number, n: number): void {
    const slot = this.slotOf(id)
    if (this.time[slot]! > time) return
    this.write(slot, time, value, min, max, n, 0)
  }

  /** Takes a reading that is shown but not stored. */
  putPreview(id: string, time: number, value: number): void {
    const slot = this.slotOf(id)
    if (this.time[slot]! >= time) return
    this.write(slot, time, value, value, value, 1, 1)
  }

  private write(slot: number, time: number, value: number, min: number, max: number, n: number, preview: number): void {
    this.time[slot] = time
    this.value[slot] = value
    this.min[slot] = min
    this.max[slot] = max
    this.count[slot] = n
    this.isPreview[slot] = preview
    this.version[slot]! += 1
  }

  /** When the channel was last sampled, ms since 1970; NaN when never. */
  timeOf(id: string): number {
    const slot = this.slots.get(id)
    return slot === undefined ? Number.NaN : this.time[slot]!
  }

  /** Grows with every change of the channel; 0 before its first reading. */
  versionOf(id: string): number {
    const slot = this.slots.get(id)
    return slot === undefined ? 0 : this.version[slot]!
  }

  /** How many channels show a reading that is not stored, sampled at `since` or later (ms). */
  unstored(since: number): number {
    let count = 0
    for (let slot = 0; slot < this.slots.size; slot += 1) if (this.isPreview[slot] === 1 && this.time[slot]! >= since) count += 1
    return count
  }

  read(id: string): Reading | null {
    const slot = this.slots.get(id)
    if (slot === undefined || Number.isNaN(this.time[slot]!)) return null
    return {
      time: this.time[slot]!,
      value: this.value[slot]!,
      min: this.min[slot]!,
      max: this.max[slot]!,
      n: this.count[slot]!,
      preview: this.isPreview[slot] === 1,
    }
  }
}

const STALE_MIN_MS = 3_000
const STALE_INTERVALS = 3

/** From which age a channel counts as stale: three of its intervals, at least 3 s. */
export function staleAfterMs(expectedIntervalMs: number | null | undefined): number {
  return Math.max(STALE_MIN_MS, STALE_INTERVALS * (expectedIntervalMs ?? 0))
}
