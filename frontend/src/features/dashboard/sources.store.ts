/** What the sources say of themselves over REST: software, clock, what is committed. Whether they are live comes over the stream. */
import { defineStore } from 'pinia'
import { shallowRef } from 'vue'
import * as api from '@/api/client'
import { asProblem, type ApiProblem } from '@/api/problem'
import type { Source } from '@/api/types'

export const useSources = defineStore('sources', () => {
  const state = shallowRef<'idle' | 'loading' | 'ready' | 'failed'>('idle')
  const data = shallowRef<readonly Source[]>([])
  const problem = shallowRef<ApiProblem | null>(null)
  const readAt = shallowRef<number | null>(null)

  async function load(): Promise<void> {
    if (state.value !== 'ready') state.value = 'loading'
    try {
      data.value = await api.sources()
      problem.value = null
      readAt.value = Date.now()
      state.value = 'ready'
    } catch (cause) {
      problem.value = asProblem(cause)
      state.value = 'failed'
    }
  }

  return { state, data, problem, readAt, load }
})
