/** The backend's time, told once a second to whatever shows a clock or an age. One timer for all. */
import { shallowRef } from 'vue'
import { serverNow } from './live.store'

const now = shallowRef(serverNow())
setInterval(() => (now.value = serverNow()), 1000)

export const useNow = (): typeof now => now
