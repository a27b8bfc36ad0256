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

restoreTheme()
const app = createApp(App)
app.use(createPinia())
app.use(PrimeVue, { theme: { preset, options: { darkModeSelector: '.dark', cssLayer: { name: 'primevue', order: 'reset, primevue' } } } })
app.directive('tooltip', Tooltip)
app.use(createAppRouter())
app.mount('#app')
