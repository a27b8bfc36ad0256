/** What a row or a tile says of its channel: value, age and doubts, from one place so that they never differ. */
import { computed, type ComputedRef } from 'vue'
import type { Channel } from '@/api/types'
import { useLatest } from '@/live/useLatest'
import { serverNow, useLive } from '@/live/live.store'
import { useNow } from '@/live/useNow'
import { formatAge, formatValue } from '@/ui/format'

export type Doubt = 'stale' | 'simulated' | 'not stored' | 'no reading'

export interface ChannelValue {
  value: ComputedRef<number | null>
  text: ComputedRef<string>
  age: ComputedRef<string>
  doubts: ComputedRef<Doubt[]>
  /** The value is old news: shown grey, its pointer hollow. */
  faded: ComputedRef<boolean>
  preview: ComputedRef<boolean>
}

export function useChannelValue(channel: () => Channel, stale: () => boolean): ChannelValue {
  const { reading } = useLatest(() => channel().public_id)
  const live = useLive()
  const now = useNow()
  const preview = computed(() => reading.value?.preview ?? false)
  return {
    value: computed(() => reading.value?.value ?? null),
    text: computed(() => formatValue(reading.value?.value, channel().decimals)),
    age: computed(() => formatAge(reading.value && now.value ? serverNow() - reading.value.time : null)),
    doubts: computed(() => {
      if (!reading.value) return ['no reading']
      const doubts: Doubt[] = []
      if (stale()) doubts.push('stale')
      if (preview.value) doubts.push('not stored')
      if (channel().quality === 'simulated') doubts.push('simulated')
      return doubts
    }),
    faded: computed(() => stale() || live.lost !== null),
    preview,
  }
}
