/** Dark or light: a class on the root element, kept for the next visit. */
import { readonly, ref, type Ref } from 'vue'

export type ThemeName = 'dark' | 'light'
const KEY = 'webmacs.theme'
const name = ref<ThemeName>('dark')

function apply(next: ThemeName): void {
  name.value = next
  document.documentElement.classList.toggle('dark', next === 'dark')
  document.documentElement.classList.toggle('light', next === 'light')
}

/** Applies what was chosen before; dark when nothing was. */
export function restoreTheme(): void {
  apply(localStorage.getItem(KEY) === 'light' ? 'light' : 'dark')
}

export function useTheme(): { name: Readonly<Ref<ThemeName>>; toggle: () => void } {
  return {
    name: readonly(name),
    toggle: () => {
      const next = name.value === 'dark' ? 'light' : 'dark'
      localStorage.setItem(KEY, next)
      apply(next)
    },
  }
}
