/** The connection in words. */
import type { StreamState } from '@/live/stream'
import { formatClock } from '@/ui/format'

/** From this try on a broken connection is called offline. */
const OFFLINE_FROM_TRY = 4

const ordinal = (n: number): string => `${n}${n % 100 > 10 && n % 100 < 14 ? 'th' : (['th', 'st', 'nd', 'rd'][n % 10] ?? 'th')}`

export type Link = 'live' | 'starting' | 'reconnecting' | 'offline'

export function linkOf(state: StreamState): Link {
  if (state.phase === 'live') return 'live'
  if (state.phase === 'lost') return state.attempt < OFFLINE_FROM_TRY ? 'reconnecting' : 'offline'
  return 'starting'
}

/** "Live", "Connecting", "Reconnecting, 3rd try in 4 s", "Offline since 14:31:02". */
export function linkWords(state: StreamState, now: number): string {
  switch (linkOf(state)) {
    case 'live':
      return 'Live'
    case 'starting':
      return 'Connecting'
    case 'reconnecting':
      return `Reconnecting, ${tryWords(state, now)}`
    case 'offline':
      return state.phase === 'lost' ? `Offline since ${formatClock(state.since)}` : 'Offline'
  }
}

/** "3rd try in 4 s", "3rd try now". */
export function tryWords(state: StreamState, now: number): string {
  if (state.phase !== 'lost') return ''
  const left = state.retryAt === null ? 0 : Math.ceil((state.retryAt - now) / 1000)
  return `${ordinal(state.attempt)} try ${left > 0 ? `in ${left} s` : 'now'}`
}
