/** Which channels have gone quiet, looked at once a second. While the connection is lost nobody is judged: the silence is ours. */
import { onScopeDispose, shallowRef, watch, type ShallowRef } from 'vue'
import type { Channel } from '@/api/types'
import { latest, onBack, serverNow, useLive } from '@/live/live.store'
import { staleAfterMs } from '@/live/latest'
import { useNow } from '@/live/useNow'

export interface Freshness {
  stale: ReadonlySet<string>
  /** Never read since this page knows them. */
  unread: ReadonlySet<string>
}

/** After the connection is back, channels get this long to say something. */
const GRACE_MS = 2_000

const same = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean => a.size === b.size && [...a].every((id) => b.has(id))

export function useFreshness(channels: () => readonly Channel[]): ShallowRef<Freshness> {
  const live = useLive()
  const now = useNow()
  const freshness = shallowRef<Freshness>({ stale: new Set(), unread: new Set() })
  let judgeFrom = 0
  onScopeDispose(onBack(() => (judgeFrom = Date.now() + GRACE_MS)))
  watch(
    [now, channels],
    () => {
      if (!live.live || Date.now() < judgeFrom) return
      const stale = new Set<string>()
      const unread = new Set<string>()
      const moment = serverNow()
      for (const channel of channels()) {
        const time = latest.timeOf(channel.public_id)
        if (Number.isNaN(time)) unread.add(channel.public_id)
        else if (moment - time > staleAfterMs(channel.expected_interval_ms)) stale.add(channel.public_id)
      }
      const before = freshness.value
      if (!same(stale, before.stale) || !same(unread, before.unread)) freshness.value = { stale, unread }
    },
    { immediate: true },
  )
  return freshness
}
