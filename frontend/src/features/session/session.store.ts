/** Who is signed in, and why one had to leave. The credential itself is in a cookie that scripts cannot read. */
import { defineStore } from 'pinia'
import { computed, ref, shallowRef } from 'vue'
import * as api from '@/api/client'
import { asProblem, type ApiProblem } from '@/api/problem'
import type { User } from '@/api/types'
import { formatHourMinute } from '@/ui/format'

export const useSession = defineStore('session', () => {
  const user = shallowRef<User | null>(null)
  /** Why one is at the login, when one did not come by oneself. */
  const reason = ref<string | null>(null)
  const choosing = computed(() => user.value?.must_change_password === true)
  let restored: Promise<void> | null = null

  /** Asks once per visit whether a session is still there. A backend that does not answer is the login's business to say. */
  function restore(): Promise<void> {
    restored ??= api.me().then(
      (found) => {
        user.value = found
      },
      (cause: unknown) => {
        // No answer is no verdict: the next one who asks may get one.
        if (asProblem(cause).status === 0) restored = null
      },
    )
    return restored
  }

  /** Signs in; the problem when it was refused, null when it worked. */
  function signIn(email: string, password: string): Promise<ApiProblem | null> {
    return begin(api.login(email, password))
  }

  /** The same with the code that single sign-on has brought back. */
  function signInBySso(code: string, signal: AbortSignal): Promise<ApiProblem | null> {
    return begin(api.ssoExchange(code, signal))
  }

  /** In place of one that was made for them, with which nothing else is open. */
  function changePassword(current: string, chosen: string): Promise<ApiProblem | null> {
    return begin(api.changePassword(current, chosen))
  }

  async function begin(login: Promise<User>): Promise<ApiProblem | null> {
    try {
      user.value = await login
      reason.value = null
      return null
    } catch (cause) {
      return asProblem(cause)
    }
  }

  async function signOut(): Promise<void> {
    try {
      await api.logout()
    } finally {
      user.value = null
      reason.value = null
    }
  }

  /** The backend says that the session is over. */
  function ended(): void {
    if (!user.value) return
    user.value = null
    reason.value = `Your session ended at ${formatHourMinute(Date.now())}.`
  }

  return { user, reason, choosing, restore, signIn, signInBySso, changePassword, signOut, ended }
})
