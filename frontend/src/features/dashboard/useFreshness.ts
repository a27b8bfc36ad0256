/** Which channels have gone quiet, looked at once a second. While the connection is lost nobody is judged: the silence is ours. */
import { onScopeDispose, shallowRef, watch, type ShallowRef } from 'vue'
import type { Channel } from '@/api/types'
import { latest, onBack, serverNow, useLive } from '@/live/live.store'
import { staleAfterMs } from '@/live/latest'
import { useNow } from '@/live/useNow'

export interface Freshness {
  stale: ReadonlySet<string>
  /** Stale for long, and their source is offline too: no news, like what a load test has left. */
  gone: ReadonlySet<string>
  /** Never read since this page knows them. */
  unread: ReadonlySet<string>
}

export const NOTHING_STALE: Freshness = { stale: new Set(), gone: new Set(), unread: new Set() }
const GONE_AFTER_MS = 600_000

/** After the connection is back, channels get this long to say something. */
const GRACE_MS = 2_000

/** `timeOf`: when a channel was last sampled, ms, NaN when never. `away`: names of the sources that are offline. */
export function judge(channels: readonly Channel[], now: number, timeOf: (id: string) => number, away: ReadonlySet<string>): Freshness {
  const stale = new Set<string>()
  const gone = new Set<string>()
  const unread = new Set<string>()
  for (const { public_id: id, expected_interval_ms: interval, source } of channels) {
    const age = now - timeOf(id)
    if (Number.isNaN(age)) unread.add(id)
    else if (age > staleAfterMs(interval)) {
      stale.add(id)
      if (age > GONE_AFTER_MS && source !== null && away.has(source)) gone.add(id)
    }
  }
  return { stale, gone, unread }
}

const same = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean => a.size === b.size && [...a].every((id) => b.has(id))

export function useFreshness(channels: () => readonly Channel[]): ShallowRef<Freshness> {
  const live = useLive()
  const now = useNow()
  const freshness = shallowRef(NOTHING_STALE)
  let judgeFrom = 0
  onScopeDispose(onBack(() => (judgeFrom = Date.now() + GRACE_MS)))
  watch(
    [now, channels],
    () => {
      if (!live.live || Date.now() < judgeFrom) return
      const away = new Set(live.sources.filter((source) => source.state === 'offline').map((source) => source.name))
      const judged = judge(channels(), serverNow(), (id) => latest.timeOf(id), away)
      const before = freshness.value
      if (!same(judged.stale, before.stale) || !same(judged.gone, before.gone) || !same(judged.unread, before.unread)) freshness.value = judged
    },
    { immediate: true },
  )
  return freshness
}
