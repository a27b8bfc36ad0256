/** Every channel of the plant, read once and again when the backend says that one has changed. */
import { defineStore } from 'pinia'
import { computed, shallowRef } from 'vue'
import * as api from '@/api/client'
import { asProblem, type ApiProblem } from '@/api/problem'
import type { Channel } from '@/api/types'

/** "core 2" comes before "core 10". */
const byName = new Intl.Collator('en', { numeric: true })

export const useChannels = defineStore('channels', () => {
  const state = shallowRef<'idle' | 'loading' | 'ready' | 'failed'>('idle')
  const data = shallowRef<readonly Channel[]>([])
  const problem = shallowRef<ApiProblem | null>(null)
  const readAt = shallowRef<number | null>(null)
  const byId = computed(() => new Map(data.value.map((channel) => [channel.public_id, channel])))
  let turn = 0

  async function load(): Promise<void> {
    const mine = ++turn
    if (state.value !== 'ready') state.value = 'loading'
    try {
      const all = await api.channels()
      if (mine !== turn) return
      data.value = all.sort((a, b) => byName.compare(a.name, b.name))
      problem.value = null
      readAt.value = Date.now()
      state.value = 'ready'
    } catch (cause) {
      if (mine !== turn) return
      problem.value = asProblem(cause)
      state.value = 'failed'
    }
  }

  return { state, data, problem, readAt, byId, load }
})
