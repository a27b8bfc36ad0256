import { describe, expect, it } from 'vitest'
import { channel } from '@/testing/channel'
import { axisBounds, decimation, extent, firstPreview, joined, newestOf, panesOf, shownReadings, silence, spread, type Curve } from './bands'
import { Ring } from './ring'

function curve(times: number[], slot = 0, unit = '%', n = 1, created = 0): Curve {
  const ring = new Ring(1, 10_000)
  for (const time of times) ring.push(time, 1, 1, 1, n)
  return { channel: channel({ name: `c${slot}`, unit, expected_interval_ms: 1000, created_on: new Date(created).toISOString() }), ring, previews: null, slot }
}

const every = (from: number, to: number, step = 1000): number[] => Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, i) => from + i * step)

describe('silence', () => {
  it('is found where no curve has a reading for three intervals', () => {
    expect(silence([curve([...every(0, 10_000), ...every(20_000, 30_000)])], 0, 30_000)).toEqual([{ from: 10_000, to: 20_000 }])
  })

  it('is none where another curve goes on', () => {
    expect(silence([curve([...every(0, 10_000), ...every(20_000, 30_000)]), curve(every(0, 30_000), 1)], 0, 30_000)).toEqual([])
  })

  it('does not count the moment since the last reading before the channel is stale', () => {
    expect(silence([curve(every(0, 10_000))], 0, 12_500)).toEqual([])
    expect(silence([curve(every(0, 10_000))], 0, 15_000)).toEqual([{ from: 10_000, to: 15_000 }])
  })

  it('is none before the channel exists', () => {
    expect(silence([curve(every(20_000, 30_000), 0, '%', 1, 19_000)], 0, 30_000)).toEqual([])
    expect(silence([curve([], 0, '%', 1, 40_000)], 0, 30_000)).toEqual([])
  })

  it('covers the whole range when there is no reading at all', () => {
    expect(silence([curve([])], 0, 60_000)).toEqual([{ from: 0, to: 60_000 }])
  })
})

it('an absence that several panes share is one', () => {
  const stretches = [{ from: 20, to: 30 }, { from: 0, to: 10 }, { from: 0, to: 12 }, { from: 12, to: 15 }]
  expect(joined(stretches)).toEqual([{ from: 0, to: 15 }, { from: 20, to: 30 }])
  expect(stretches[1]).toEqual({ from: 0, to: 10 })
})

describe('the axis', () => {
  it('stands still while the readings fit and fill it', () => {
    const before = { min: 0, max: 10 }
    expect(axisBounds({ min: 2, max: 8 }, before, null)).toBe(before)
  })

  it('moves when a reading leaves it', () => {
    const next = axisBounds({ min: 2, max: 14 }, { min: 0, max: 10 }, null)
    expect(next.max).toBeGreaterThan(14)
  })

  it('is the declared range when the readings fill enough of it', () => {
    const declared = { min: 0, max: 100 }
    expect(axisBounds({ min: 10, max: 60 }, null, declared)).toBe(declared)
  })

  it('shows a percentage against its whole, however little it moves', () => {
    const declared = { min: 0, max: 100 }
    expect(axisBounds({ min: 98, max: 99 }, null, declared, '%')).toBe(declared)
    expect(axisBounds({ min: 98, max: 99 }, null, declared, '°C')).not.toBe(declared)
  })

  it('never shows room outside the declared range when no reading is there', () => {
    expect(axisBounds({ min: 0, max: 3 }, null, { min: 0, max: 100 }).min).toBe(0)
  })

  it('gives a constant its own room', () => {
    const { min, max } = axisBounds({ min: 5, max: 5 }, null, null)
    expect(min).toBeLessThan(5)
    expect(max).toBeGreaterThan(5)
  })
})

it('channels of one unit share a pane', () => {
  const panes = panesOf([curve([], 0, '%'), curve([], 1, '°C'), curve([], 2, '%')])
  expect(panes.map((pane) => [pane.unit, pane.curves.length])).toEqual([['%', 2], ['°C', 1]])
})

it('decimation tells the worst curve', () => {
  expect(decimation([curve(every(0, 5000)), curve(every(0, 5000), 1, '%', 100)], 0, 5000)).toBe(100)
})

it('labels that would overlap are moved apart and stay inside', () => {
  expect(spread([10, 12, 14], 14, 0, 100)).toEqual([10, 24, 38])
  expect(spread([90, 95, 99], 14, 0, 100)).toEqual([72, 86, 100])
})

describe('previews', () => {
  /** Stored up to 10 s, shown from 9 s to 30 s with the value 7. */
  function ahead(): Curve {
    const previews = new Ring(1, 100)
    for (const time of every(9_000, 30_000)) previews.push(time, 7, 7, 7, 1)
    return { ...curve(every(0, 10_000)), previews }
  }

  it('count from the first one that is newer than everything stored', () => {
    const one = ahead()
    expect(one.previews!.to(firstPreview(one))).toBe(11_000)
    expect(newestOf(one)).toEqual({ time: 30_000, value: 7, preview: true })
  })

  it('are gone when what is stored has come as far, whatever is still remembered of them', () => {
    const one = ahead()
    one.ring.push(30_000, 1, 1, 1, 1)
    expect(firstPreview(one)).toBe(one.previews!.length)
    expect(newestOf(one)).toEqual({ time: 30_000, value: 1, preview: false })
    expect(extent([one], 0, 40_000)).toEqual({ min: 1, max: 1 })
  })

  it('are no silence, and the axis has room for them', () => {
    expect(silence([ahead()], 0, 31_000)).toEqual([])
    expect(extent([ahead()], 0, 31_000)).toEqual({ min: 1, max: 7 })
  })

  it('do not hide that readings were lost', () => {
    const one = ahead()
    one.ring.push(30_000, 1, 1, 1, 1)
    expect(silence([one], 0, 31_000)).toEqual([{ from: 10_000, to: 30_000 }])
  })
})

it('the readings behind whole points are counted, with the stretch that they fill', () => {
  expect(shownReadings([curve(every(0, 10_000), 0, '%', 5)], 500, 4_500)).toEqual({ count: 20, from: 1_000, to: 4_000 })
})
