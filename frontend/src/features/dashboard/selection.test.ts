import { describe, expect, it } from 'vitest'
import { channel } from '@/testing/channel'
import { abnormalFirst, moved } from './order'
import { judge, NOTHING_STALE } from './useFreshness'
import { channelsOf, defaultChannels, matching, placesFor, rangeOf } from './selection'

const names = (channels: { name: string }[]): string[] => channels.map(({ name }) => name)

describe('what a trend shows first', () => {
  it('is the processor, two cores and two simulated temperatures', () => {
    const all = [
      ...['CPU core 0', 'CPU core 1', 'CPU core 2', 'CPU total', 'Memory used'].map((name) => channel({ name })),
      channel({ name: 'Board', unit: '°C' }),
      ...['T1', 'T2', 'T3'].map((name) => channel({ name, unit: '°C', quality: 'simulated' })),
    ]
    expect(names(defaultChannels(all, new Set()))).toEqual(['CPU total', 'CPU core 0', 'CPU core 1', 'T1', 'T2'])
  })

  it('is whatever comes first where there is no processor', () => {
    const all = ['a', 'b', 'c', 'd', 'e'].map((name) => channel({ name, unit: 'bar' }))
    expect(names(defaultChannels(all, new Set()))).toEqual(['a', 'b', 'c', 'd'])
    expect(defaultChannels([], new Set())).toEqual([])
  })

  it('is of sources that are there, unless none is', () => {
    const all = [channel({ name: 'CPU total', source: 'old' }), channel({ name: 'CPU core 1', source: 'new' }), channel({ name: 'CPU core 2', source: null })]
    expect(names(defaultChannels(all, new Set(['old'])))).toEqual(['CPU core 1', 'CPU core 2'])
    expect(names(defaultChannels(all.slice(0, 1), new Set(['old'])))).toEqual(['CPU total'])
  })

  it('is what the address says, without what no longer exists', () => {
    const byId = new Map(['a', 'b'].map((name) => [name, channel({ name })]))
    expect(names(channelsOf('b,gone,a', byId))).toEqual(['b', 'a'])
    expect(channelsOf('', byId)).toEqual([])
    expect(rangeOf('1h').ms).toBe(3_600_000)
    expect(rangeOf('nonsense').key).toBe('2m')
  })
})

it('a channel keeps its colour when another goes, and a new one takes the free place', () => {
  const first = placesFor(['a', 'b', 'c'], new Map())
  const second = placesFor(['a', 'c', 'd'], first)
  expect([second.get('a'), second.get('c'), second.get('d')]).toEqual([0, 2, 1])
})

it('a search needs every word, in name, key, unit or source', () => {
  const all = [channel({ name: 'Jacket temperature', channel_key: 'TI-104', unit: '°C' }), channel({ name: 'Feed pressure', channel_key: 'PI-201', unit: 'bar' })]
  expect(names(matching(all, 'ti-1 jack'))).toEqual(['Jacket temperature'])
  expect(names(matching(all, 'bar'))).toEqual(['Feed pressure'])
  expect(matching(all, ' ')).toHaveLength(2)
})

describe('the order of channels', () => {
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => channel({ name })) as [ReturnType<typeof channel>, ...ReturnType<typeof channel>[]]

  it('puts what is stale first and leaves the rest', () => {
    expect(names(abnormalFirst([a, b!, c!, d!], { ...NOTHING_STALE, stale: new Set(['c']) }))).toEqual(['c', 'a', 'b', 'd'])
  })

  it('counts one moved row as one', () => {
    expect(moved([a, b!, c!, d!], [d!, a, b!, c!])).toBe(1)
    expect(moved([a, b!, c!], [a, b!, c!])).toBe(0)
  })
})

describe('what has long been gone with its source', () => {
  const minutes = (count: number): number => count * 60_000
  const times: Record<string, number> = { fresh: minutes(60), failed: minutes(30), left: minutes(30), leaving: minutes(55), never: Number.NaN }
  const channels = Object.keys(times).map((name) => channel({ name, source: name.startsWith('le') ? 'loadtest' : 'plant' }))
  const freshness = judge(channels, minutes(60), (id) => times[id]!, new Set(['loadtest']))

  it('is stale like all that is silent, but no news', () => {
    expect([...freshness.stale]).toEqual(['failed', 'left', 'leaving'])
    expect([...freshness.gone]).toEqual(['left'])
    expect([...freshness.unread]).toEqual(['never'])
  })

  it('comes last', () => {
    expect(names(abnormalFirst(channels, freshness))).toEqual(['failed', 'leaving', 'fresh', 'never', 'left'])
  })
})
