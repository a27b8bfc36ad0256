import { flushPromises, mount, type VueWrapper } from '@vue/test-utils'
import { createPinia, setActivePinia } from 'pinia'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createMemoryHistory, createRouter, type Router } from 'vue-router'
import { useSession } from '@/features/session/session.store'
import { fakeBackend, problem } from '@/testing/backend'
import SsoCallbackView from './SsoCallbackView.vue'

const USER = { public_id: 'u', email: 'm@plant.example', username: 'M. Weber', role: 'viewer', registered_on: '2026-11-23T10:00:00Z' }
let view: VueWrapper
let router: Router

beforeEach(() => setActivePinia(createPinia()))
afterEach(() => {
  view.unmount()
  vi.unstubAllGlobals()
})

async function open(address: string): Promise<void> {
  router = createRouter({ history: createMemoryHistory(), routes: [{ path: '/:all(.*)*', component: { template: '<i />' } }] })
  await router.push(address)
  view = mount(SsoCallbackView, { global: { plugins: [router] } })
  await flushPromises()
}

describe('the way back from single sign-on', () => {
  it('exchanges the code, which leaves the address bar, and goes on to where one wanted to go', async () => {
    const replaced = vi.spyOn(history, 'replaceState')
    const { asked } = fakeBackend(() => ({ body: { access_token: 't', token_type: 'bearer', expires_on: '', user: USER } }))
    await open('/sso-callback?code=one&next=/%3Frange%3D1h')
    expect(asked.map(({ method, path, body }) => [method, path, body])).toEqual([['POST', '/api/v1/auth/sso/exchange', { code: 'one' }]])
    expect(replaced.mock.calls[0]![2]).toBe('/sso-callback')
    expect(useSession().user).toEqual(USER)
    expect(router.currentRoute.value.fullPath).toBe('/?range=1h')
  })

  it('never goes on to another host', async () => {
    fakeBackend(() => ({ body: { access_token: 't', token_type: 'bearer', expires_on: '', user: USER } }))
    await open('/sso-callback?code=one&next=//elsewhere.example')
    expect(router.currentRoute.value.fullPath).toBe('/')
  })

  it.each([
    ['/sso-callback?code=used', problem(401, 'x'), 'Begin again.'],
    ['/sso-callback?code=one', problem(503, 'The database cannot be reached.'), 'The database cannot be reached.'],
    ['/sso-callback', problem(500, 'x'), 'Begin again.'],
  ])('says why it leads nowhere, and leads back (%#)', async (address, answer, words) => {
    fakeBackend(() => answer)
    await open(address)
    expect(view.get('[role=alert]').text()).toContain(words)
    expect(view.get('a').attributes('href')).toBe('/login')
    expect(useSession().user).toBeNull()
  })

  it.each([
    ['linked', 'Account linked'],
    ['taken', 'linked to another one already'],
    ['expired', 'Begin again.'],
  ])('says what came of linking an account (%s)', async (outcome, words) => {
    const { asked } = fakeBackend(() => ({ body: {} }))
    await open(`/sso-callback?sso_link=${outcome}&next=/%3Frange%3D1h`)
    expect(view.text()).toContain(words)
    expect(view.get('a').attributes('href')).toBe('/?range=1h')
    expect(asked).toEqual([])
  })

  it('does not wait for ever', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new DOMException('', 'TimeoutError')))
    await open('/sso-callback?code=one')
    expect(view.get('[role=alert]').text()).toContain('The backend does not answer.')
  })
})
