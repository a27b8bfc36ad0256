/** The addresses of the application. Everything but the login needs a session, and a password of one's own; views are loaded when they are opened. */
import { createRouter, createWebHistory, type Router, type RouterHistory } from 'vue-router'
import { useSession } from './features/session/session.store'

export function createAppRouter(history: RouterHistory = createWebHistory()): Router {
  const router = createRouter({
    history,
    routes: [
      { path: '/login', name: 'login', meta: { open: true, title: 'Sign in' }, component: () => import('./features/login/LoginView.vue') },
      {
        path: '/sso-callback',
        name: 'sso-callback',
        meta: { open: true, title: 'Sign in' },
        component: () => import('./features/login/SsoCallbackView.vue'),
      },
      {
        path: '/',
        component: () => import('./shell/AppShell.vue'),
        children: [
          { path: '', name: 'dashboard', meta: { title: 'Dashboard' }, component: () => import('./features/dashboard/DashboardView.vue') },
          { path: ':path(.*)+', name: 'not-found', meta: { title: 'Not found' }, component: () => import('./features/notfound/NotFoundView.vue') },
        ],
      },
    ],
  })
  router.beforeEach(async (to) => {
    const session = useSession()
    await session.restore()
    const inside = session.user !== null && !session.choosing
    if (to.meta.open && to.query.sso_link) return true // what came of linking an account is said also to whoever is inside
    if (to.meta.open) return inside ? safeTarget(to.query.next) : true
    return inside ? true : { name: 'login', query: to.fullPath === '/' ? {} : { next: to.fullPath } }
  })
  router.afterEach((to) => {
    document.title = `${String(to.meta.title ?? 'WebMACS')} · WebMACS`
  })
  return router
}

/** Where to go after the login: only inside this application, whatever the address says. */
export function safeTarget(next: unknown): string {
  return typeof next === 'string' && /^\/(?![/\\])/.test(next) ? next : '/'
}
