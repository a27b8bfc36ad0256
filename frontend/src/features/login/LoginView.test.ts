import { flushPromises, mount, type VueWrapper } from '@vue/test-utils'
import { createPinia, setActivePinia } from 'pinia'
import PrimeVue from 'primevue/config'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createMemoryHistory, createRouter, type Router } from 'vue-router'
import { useSession } from '@/features/session/session.store'
import { fakeBackend, problem } from '@/testing/backend'
import LoginView from './LoginView.vue'

const USER = { public_id: 'u', email: 'm@plant.example', username: 'M. Weber', role: 'viewer', registered_on: '2026-11-23T10:00:00Z' }
let view: VueWrapper
let router: Router

beforeEach(() => setActivePinia(createPinia()))
afterEach(() => {
  view.unmount()
  vi.unstubAllGlobals()
})

async function open(address = '/login'): Promise<void> {
  router = createRouter({ history: createMemoryHistory(), routes: [{ path: '/:all(.*)*', component: { template: '<i />' } }] })
  await router.push(address)
  view = mount(LoginView, { global: { plugins: [PrimeVue, router] } })
  await flushPromises()
}

async function signIn(): Promise<void> {
  await view.get('#email').setValue('m@plant.example')
  await view.get('#password').setValue('a long enough password')
  await view.get('form').trigger('submit')
  await flushPromises()
}

describe('the login', () => {
  it.each([
    [problem(401, 'Not right.'), 'Email or password is not right.'],
    [problem(429, 'Too many tries. Next one in 30 s.'), 'Too many tries. Next one in 30 s.'],
    [problem(503, 'The database does not answer.'), 'The database does not answer.'],
  ])('says in one sentence why it refuses (%#)', async (answer, sentence) => {
    fakeBackend(({ path }) => (path === '/health' ? { body: { status: 'ok' } } : answer))
    await open()
    await signIn()
    expect(view.get('[role=alert]').text()).toContain(sentence)
  })

  it('asks for what is missing before it asks the backend', async () => {
    const { asked } = fakeBackend(() => ({ body: { status: 'ok' } }))
    await open()
    await view.get('form').trigger('submit')
    expect(view.get('[role=alert]').text()).toBe('Enter your email and your password.')
    expect(asked.filter(({ method }) => method !== 'GET')).toEqual([])
  })

  it('goes back to where one was, with the header that writes need', async () => {
    const { asked } = fakeBackend(({ path }) => ({ body: path === '/health' ? { status: 'ok' } : { access_token: 't', token_type: 'bearer', expires_on: '', user: USER } }))
    await open('/login?next=/%3Frange%3D1h')
    await signIn()
    expect(router.currentRoute.value.fullPath).toBe('/?range=1h')
    const sent = asked.find(({ path }) => path.endsWith('/login'))!
    expect(sent.headers.get('X-WebMACS')).toBe('1')
  })

  it('lets nobody past a password that was made for them', async () => {
    let given = true
    const { asked } = fakeBackend(({ path, method }) => {
      if (path === '/health') return { body: { status: 'ok' } }
      if (method === 'PUT' && given) {
        given = false
        return { status: 422, body: { detail: 'x', errors: [{ loc: ['body', 'new_password'], msg: 'It is guessed first.' }] } }
      }
      const user = { ...USER, must_change_password: method !== 'PUT' }
      return { body: { access_token: 't', token_type: 'bearer', expires_on: '', user } }
    })
    await open('/login?next=/%3Frange%3D1h')
    await signIn()
    expect(view.get('h1').text()).toBe('Choose your password')
    expect(router.currentRoute.value.path).toBe('/login')
    await view.get('#chosen').setValue('a phrase of my own')
    await view.get('form').trigger('submit')
    await flushPromises()
    expect(view.get('[role=alert]').text()).toContain('It is guessed first.')
    await view.get('form').trigger('submit')
    await flushPromises()
    expect(router.currentRoute.value.fullPath).toBe('/?range=1h')
    const sent = asked.filter(({ method }) => method === 'PUT')
    expect(sent.map(({ body }) => body)).toEqual([1, 2].map(() => ({ current_password: 'a long enough password', new_password: 'a phrase of my own' })))
  })

  it('links the account of an administrator who was refused, when asked to', async () => {
    const { asked } = fakeBackend(({ path }) => {
      if (path.endsWith('/sso/config')) return { body: { enabled: true, provider_name: 'Plant ID', authorize_url: 'https://plant.example/begin' } }
      if (path.endsWith('/sso/link')) return { status: 503, body: { detail: 'The provider is away.' } }
      return { body: path === '/health' ? { status: 'ok' } : { access_token: 't', token_type: 'bearer', expires_on: '', user: USER } }
    })
    await open('/login?sso=admin&next=/%3Frange%3D1h')
    await view.get('input[name=link]').setValue(true)
    await signIn()
    expect(asked.find(({ path }) => path.endsWith('/sso/link'))!.body).toEqual({ next: '/sso-callback?next=%2F%3Frange%3D1h' })
    expect(view.get('[role=alert]').text()).toContain('The provider is away.')
    await signIn()
    expect(router.currentRoute.value.fullPath).toBe('/?range=1h')
  })

  it('says why one is here', async () => {
    fakeBackend(() => ({ body: { status: 'ok' } }))
    useSession().$patch({ reason: 'Your session ended at 15:00.' })
    await open()
    expect(view.text()).toContain('Your session ended at 15:00.')
  })

  it.each([
    [{ body: { status: 'ok' } }, 'Backend reachable, storing'],
    [{ status: 503, body: { status: 'unavailable' } }, 'cannot store'],
  ])('says how the backend is (%#)', async (answer, words) => {
    fakeBackend(() => answer)
    await open()
    expect(view.get('[role=status]').text()).toContain(words)
  })

  it('says when nothing answers', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('network')))
    await open()
    expect(view.get('[role=status]').text()).toContain('does not answer')
    await signIn()
    expect(view.get('[role=alert]').text()).toContain('The backend does not answer.')
  })

  it('offers the provider of single sign-on, and keeps where one wanted to go', async () => {
    fakeBackend(({ path }) =>
      path.endsWith('/sso/config')
        ? { body: { enabled: true, provider_name: 'Plant ID', authorize_url: 'https://plant.example/api/v1/auth/sso/authorize' } }
        : { body: { status: 'ok' } },
    )
    await open('/login?next=/%3Frange%3D1h')
    const link = view.get('a.login__sso')
    expect(link.text()).toBe('Sign in with Plant ID')
    expect(link.attributes('href')).toBe('https://plant.example/api/v1/auth/sso/authorize?next=%2F%3Frange%3D1h')
  })

  it.each([
    ['/login', false],
    ['/login?sso=disabled', 'Your account is disabled.'],
    ['/login?sso=toString', 'Single sign-on did not work.'],
    ['/login?sso=%3Cb%3E', 'Single sign-on did not work.'],
  ])('says why single sign-on was refused (%s)', async (address, words) => {
    fakeBackend(() => ({ body: { enabled: false, provider_name: null, authorize_url: null } }))
    await open(address)
    expect(view.find('a.login__sso').exists()).toBe(false)
    if (words) expect(view.get('[role=alert]').text()).toContain(words)
    else expect(view.find('[role=alert]').exists()).toBe(false)
  })

  it('shows the password and warns of Caps Lock', async () => {
    fakeBackend(() => ({ body: { status: 'ok' } }))
    await open()
    await view.findAll('button').find((button) => button.text() === 'Show')!.trigger('click')
    expect(view.get('#password').attributes('type')).toBe('text')
    const event = new KeyboardEvent('keydown', { key: 'A' })
    event.getModifierState = (key) => key === 'CapsLock'
    view.get('#password').element.dispatchEvent(event)
    await flushPromises()
    expect(view.text()).toContain('Caps Lock is on.')
  })
})
