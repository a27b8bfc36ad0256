/** The order of channels: what needs a look comes first, what has long been gone last, the rest stays as it is. */
import type { Channel } from '@/api/types'
import type { Freshness } from './useFreshness'

export const needsALook = ({ public_id: id }: Channel, { stale, gone }: Freshness): boolean => stale.has(id) && !gone.has(id)

export function abnormalFirst(channels: readonly Channel[], freshness: Freshness): Channel[] {
  const rank = (channel: Channel): number => (needsALook(channel, freshness) ? 0 : freshness.gone.has(channel.public_id) ? 2 : 1)
  return [...channels].sort((a, b) => rank(a) - rank(b))
}

/** How many rows have to move from one order to the other, at least: those outside the rows that stay in sequence at the same place. */
export function moved(from: readonly Channel[], to: readonly Channel[]): number {
  const place = new Map(to.map((channel, index) => [channel.public_id, index]))
  // Rows that keep their sequence need not move: all but the longest rising run of places.
  const tails: number[] = []
  for (const channel of from) {
    const at = place.get(channel.public_id)
    if (at === undefined) continue
    let low = 0
    let high = tails.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (tails[middle]! < at) low = middle + 1
      else high = middle
    }
    tails[low] = at
  }
  return from.length - tails.length
}
