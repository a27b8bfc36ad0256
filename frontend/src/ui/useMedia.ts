/** Whether a media query holds, followed as it changes. */
import { onScopeDispose, readonly, ref, type Ref } from 'vue'

export const PHONE = '(max-width: 899.9px)'
export const TOUCH = '(pointer: coarse)'

export function useMedia(query: string): Readonly<Ref<boolean>> {
  const list = matchMedia(query)
  const holds = ref(list.matches)
  const follow = (): void => {
    holds.value = list.matches
  }
  list.addEventListener('change', follow)
  onScopeDispose(() => list.removeEventListener('change', follow))
  return readonly(holds)
}
