import { describe, expect, it } from 'vitest'
import { Latest, staleAfterMs } from './latest'
import { parseTime } from './live.store'

describe('the newest readings', () => {
  it('keep what is newest, however late an older one arrives', () => {
    const latest = new Latest()
    latest.put('a', 2000, 5, 4, 6, 10)
    latest.put('a', 1000, 1, 1, 1, 1)
    expect(latest.read('a')).toEqual({ time: 2000, value: 5, min: 4, max: 6, n: 10, preview: false })
  })

  it('hold thousands of channels apart', () => {
    const latest = new Latest()
    for (let i = 0; i < 2000; i += 1) latest.put(`c${i}`, i + 1, i, i, i, 1)
    expect(latest.read('c1999')?.value).toBe(1999)
    expect(latest.read('c0')?.value).toBe(0)
  })

  it('replace a preview by the stored reading, even one of the same time', () => {
    const latest = new Latest()
    latest.putPreview('a', 1000, 7)
    expect(latest.read('a')?.preview).toBe(true)
    latest.put('a', 1000, 7, 7, 7, 1)
    expect(latest.read('a')?.preview).toBe(false)
  })

  it('go on showing a preview while a backlog is stored that has not come as far', () => {
    const latest = new Latest()
    latest.putPreview('a', 1000, 7)
    latest.put('a', 900, 6, 6, 6, 100)
    expect(latest.read('a')).toMatchObject({ time: 1000, value: 7, preview: true })
    latest.put('a', 1001, 8, 8, 8, 1)
    expect(latest.read('a')).toMatchObject({ time: 1001, value: 8, preview: false })
  })

  it('never let a preview take the place of a stored reading that is as new', () => {
    const latest = new Latest()
    latest.put('a', 1000, 7, 7, 7, 1)
    latest.putPreview('a', 1000, 9)
    expect(latest.read('a')).toMatchObject({ value: 7, preview: false })
  })

  it('tell how many channels show what is not stored, as long as somebody shows it', () => {
    const latest = new Latest()
    latest.put('a', 1000, 7, 7, 7, 1)
    latest.putPreview('b', 1000, 7)
    latest.putPreview('c', 2000, 7)
    expect([latest.unstored(0), latest.unstored(1500), latest.unstored(3000)]).toEqual([2, 1, 0])
  })

  it('are nothing before the first reading', () => {
    expect(new Latest().read('a')).toBeNull()
    expect(new Latest().timeOf('a')).toBeNaN()
  })
})

it('a channel is stale after three of its intervals, but not before 3 s', () => {
  expect(staleAfterMs(10)).toBe(3000)
  expect(staleAfterMs(5000)).toBe(15_000)
  expect(staleAfterMs(null)).toBe(3000)
})

it('times keep their microseconds', () => {
  expect(parseTime('1970-01-01T00:00:01.234567Z')).toBeCloseTo(1234.567, 6)
  expect(parseTime('1970-01-01T00:00:01Z')).toBe(1000)
  expect(parseTime('1970-01-01T00:00:01.5+00:00')).toBe(1500)
})
