/** Which channels a trend shows: what the address says, else a sensible few. */
import type { Channel } from '@/api/types'

export const RANGES = [
  { key: '2m', label: '2 min', ms: 120_000 },
  { key: '10m', label: '10 min', ms: 600_000 },
  { key: '1h', label: '1 h', ms: 3_600_000 },
  { key: '8h', label: '8 h', ms: 28_800_000 },
] as const

export type Range = (typeof RANGES)[number]
const FIRST_RANGE = RANGES[0]

export const rangeOf = (key: unknown): Range => RANGES.find((range) => range.key === key) ?? FIRST_RANGE

const TOTAL = /total|all|overall/i
const CPU = /cpu|processor/i
const FALLBACK = 4

/**
 * What a first look should show: the processor as a whole and two of its cores, two temperatures of the simulator; whatever comes first where
 * those are missing. `away`: names of offline sources, whose channels come only where there is nothing else.
 */
export function defaultChannels(all: readonly Channel[], away: ReadonlySet<string>): Channel[] {
  const present = all.filter((channel) => channel.source === null || !away.has(channel.source))
  const channels = present.length ? present : all
  const sensors = channels.filter((channel) => channel.type === 'sensor')
  const loads = sensors.filter((channel) => channel.unit === '%' && CPU.test(channel.name) && channel.quality !== 'simulated')
  const total = loads.filter((channel) => TOTAL.test(channel.name)).slice(0, 1)
  const cores = loads.filter((channel) => !total.includes(channel)).slice(0, total.length ? 2 : 3)
  const temperatures = sensors.filter((channel) => channel.unit === '°C')
  const simulated = temperatures.filter((channel) => channel.quality === 'simulated')
  const chosen = [...total, ...cores, ...(simulated.length ? simulated : temperatures).slice(0, 2)]
  if (chosen.length) return chosen
  return (sensors.length ? sensors : channels).slice(0, FALLBACK)
}

/** The channels named in the address, in its order; unknown ones are left out. */
export function channelsOf(query: unknown, byId: ReadonlyMap<string, Channel>): Channel[] {
  if (typeof query !== 'string') return []
  return query.split(',').flatMap((id) => byId.get(id) ?? [])
}

/** Places for colours: who stays keeps its place, who comes takes the lowest free one. */
export function placesFor(ids: readonly string[], before: ReadonlyMap<string, number>): Map<string, number> {
  const places = new Map<string, number>()
  for (const id of ids) {
    const place = before.get(id)
    if (place !== undefined) places.set(id, place)
  }
  const taken = new Set(places.values())
  let next = 0
  for (const id of ids) {
    if (places.has(id)) continue
    while (taken.has(next)) next += 1
    taken.add(next)
    places.set(id, next)
  }
  return places
}

/** Channels whose name, key, unit or source contain every word of `search`. */
export function matching(channels: readonly Channel[], search: string): Channel[] {
  const words = search.toLocaleLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) return [...channels]
  return channels.filter((channel) => {
    const text = [channel.name, channel.channel_key, channel.unit, channel.source, channel.instance].join(' ').toLocaleLowerCase()
    return words.every((word) => text.includes(word))
  })
}
