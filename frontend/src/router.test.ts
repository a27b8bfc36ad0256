import { createPinia, setActivePinia } from 'pinia'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createMemoryHistory } from 'vue-router'
import { createAppRouter, safeTarget } from './router'
import { fakeBackend, problem } from './testing/backend'

const USER = { public_id: 'u', email: 'm@plant.example', username: 'M', role: 'viewer', registered_on: '2026-11-23T10:00:00Z' }

beforeEach(() => setActivePinia(createPinia()))
afterEach(() => vi.unstubAllGlobals())

async function go(address: string): Promise<string> {
  const router = createAppRouter(createMemoryHistory())
  await router.push(address)
  return router.currentRoute.value.fullPath
}

describe('the way into the application', () => {
  it('leads over the login without a session, and keeps where one wanted to go', async () => {
    fakeBackend(() => problem(401, 'Sign in.'))
    expect(await go('/?range=1h')).toBe('/login?next=/?range=1h')
  })

  it('is open with a session', async () => {
    fakeBackend(() => ({ body: USER }))
    expect(await go('/?range=1h')).toBe('/?range=1h')
  })

  it('passes the login by when one is signed in', async () => {
    fakeBackend(() => ({ body: USER }))
    expect(await go('/login?next=/?q=cpu')).toBe('/?q=cpu')
  })

  it('stays at the login until one has a password of one\'s own', async () => {
    fakeBackend(() => ({ body: { ...USER, must_change_password: true } }))
    expect(await go('/?range=1h')).toBe('/login?next=/?range=1h')
    expect(await go('/login')).toBe('/login')
  })

  it('never leads to another host', () => {
    for (const address of ['//elsewhere.example', '/\\elsewhere.example', 'https://elsewhere.example', undefined, ['/a']]) expect(safeTarget(address)).toBe('/')
    expect(safeTarget('/?range=1h')).toBe('/?range=1h')
  })

  it('knows an address that leads nowhere', async () => {
    fakeBackend(() => ({ body: USER }))
    const router = createAppRouter(createMemoryHistory())
    await router.push('/no/such/place')
    expect(router.currentRoute.value.name).toBe('not-found')
  })
})
