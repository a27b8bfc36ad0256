/** The order of channels: what needs a look comes first, the rest stays as it is. */
import type { Channel } from '@/api/types'

export function abnormalFirst(channels: readonly Channel[], stale: ReadonlySet<string>): Channel[] {
  const abnormal = channels.filter((channel) => stale.has(channel.public_id))
  return abnormal.length ? [...abnormal, ...channels.filter((channel) => !stale.has(channel.public_id))] : [...channels]
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
