import { createPinia } from 'pinia'
import PrimeVue from 'primevue/config'
import Tooltip from 'primevue/tooltip'
import { createApp } from 'vue'
import App from './App.vue'
import { createAppRouter } from './router'
import { preset } from './theme/preset'
import { restoreTheme } from './theme/useTheme'
import './theme/tokens.css'
import './theme/fonts.css'
import './theme/base.css'

// After an update the parts that an open page has not loaded yet are gone from the server: a reload brings the new ones. Once: a second
// failure is a broken installation, and a page that reloads for ever tells nobody.
const RELOADED = 'webmacs.reloaded'
window.addEventListener('vite:preloadError', () => {
  if (sessionStorage.getItem(RELOADED)) return
  sessionStorage.setItem(RELOADED, '1')
  location.reload()
})

restoreTheme()
const app = createApp(App)
app.use(createPinia())
app.use(PrimeVue, { theme: { preset, options: { darkModeSelector: '.dark', cssLayer: { name: 'primevue', order: 'reset, primevue' } } } })
app.directive('tooltip', Tooltip)
app.use(createAppRouter())
app.mount('#app')
window.addEventListener('load', () => setTimeout(() => sessionStorage.removeItem(RELOADED), 10_000))
