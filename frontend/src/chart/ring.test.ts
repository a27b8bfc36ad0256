import { describe, expect, it } from 'vitest'
import type { Series } from '@/api/types'
import { Ring } from './ring'

/** History of single readings: [time in ms, value]. */
function history(...readings: [number, number][]): Series {
  const at = readings.map(([time]) => time * 1000)
  const values = readings.map(([, value]) => value)
  return { event_public_id: 'a', t0: at, t1: at, min: values, max: values, avg: values, last: values, n: values.map(() => 1) }
}

const times = (ring: Ring): number[] => Array.from({ length: ring.length }, (_, i) => ring.to(i))
const values = (ring: Ring): number[] => Array.from({ length: ring.length }, (_, i) => ring.last(i))

describe('a ring of buckets', () => {
  it('keeps the smallest and the largest of all readings that share a bucket', () => {
    const ring = new Ring(1000, 10)
    ring.push(1100, 5, 4, 6, 10)
    ring.push(1200, 5.5, -30, 5.6, 10)
    ring.push(1900, 5.2, 5, 99, 10)
    expect(ring.length).toBe(1)
    expect([ring.min(0), ring.max(0), ring.last(0), ring.n(0)]).toEqual([-30, 99, 5.2, 30])
  })

  it('forgets the oldest bucket when it is full', () => {
    const ring = new Ring(10, 3)
    for (const time of [10, 20, 30, 40]) ring.push(time, time, time, time, 1)
    expect(times(ring)).toEqual([20, 30, 40])
  })

  it('refuses a reading that is not newer than the newest', () => {
    const ring = new Ring(10, 3)
    ring.push(20, 1, 1, 1, 1)
    expect(ring.push(20, 2, 2, 2, 1)).toBe(false)
    expect(ring.push(15, 2, 2, 2, 1)).toBe(false)
    expect(values(ring)).toEqual([1])
  })

  it('lays history into a hole and keeps what lies on both sides', () => {
    const ring = new Ring(10, 20)
    for (const time of [10, 20, 100, 110]) ring.push(time, time, time, time, 1)
    ring.merge(history([30, 1], [40, 2], [90, 3]), 21, 95)
    expect(times(ring)).toEqual([10, 20, 30, 40, 90, 100, 110])
    expect(values(ring)).toEqual([10, 20, 1, 2, 3, 100, 110])
  })

  it('keeps live readings that are newer than the end of the history, though they lie inside the asked span', () => {
    const ring = new Ring(10, 20)
    ring.push(100, 7, 7, 7, 1)
    ring.merge(history([30, 1], [90, 3]), 0, 200)
    expect(times(ring)).toEqual([30, 90, 100])
  })

  it('replaces a coarse live point by the readings it stood for', () => {
    const ring = new Ring(10, 20)
    ring.push(10, 1, 1, 1, 1)
    ring.push(90, 9, 2, 9, 8)
    ring.merge(history([20, 2], [50, 5], [90, 9]), 11, 90)
    expect(times(ring)).toEqual([10, 20, 50, 90])
  })

  it('finds the nearest bucket, and none where there is nothing near', () => {
    const ring = new Ring(10, 20)
    for (const time of [10, 50, 100]) ring.push(time, time, time, time, 1)
    expect(ring.nearest(58, 20)).toBe(1)
    expect(ring.nearest(80, 30)).toBe(2)
    expect(ring.nearest(75, 5)).toBe(-1)
    expect(new Ring(10, 5).nearest(1, 1e9)).toBe(-1)
  })
})
