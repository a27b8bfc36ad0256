/** What the person's menu offers, in the sidebar and on a phone. */
import type { MenuItem } from 'primevue/menuitem'
import { computed, type ComputedRef } from 'vue'
import { useTheme } from '@/theme/useTheme'

export function usePersonMenu(signOut: () => void): ComputedRef<MenuItem[]> {
  const theme = useTheme()
  return computed(() => [
    {
      label: theme.name.value === 'dark' ? 'Light theme' : 'Dark theme',
      icon: theme.name.value === 'dark' ? 'pi pi-sun' : 'pi pi-moon',
      command: theme.toggle,
    },
    { label: 'API documentation', icon: 'pi pi-book', url: '/docs', target: '_blank' },
    { separator: true },
    { label: 'Sign out', icon: 'pi pi-sign-out', command: signOut },
  ])
}
