import { expect, it } from 'vitest'
import { linkWords } from './connection'

it('a connection is told in words', () => {
  const since = new Date(2026, 10, 23, 14, 31, 2).getTime()
  expect(linkWords({ phase: 'live' }, 0)).toBe('Live')
  expect(linkWords({ phase: 'starting' }, 0)).toBe('Connecting')
  expect(linkWords({ phase: 'lost', since, attempt: 3, retryAt: 5000 }, 1200)).toBe('Reconnecting, 3rd try in 4 s')
  expect(linkWords({ phase: 'lost', since, attempt: 2, retryAt: null }, 1200)).toBe('Reconnecting, 2nd try now')
  expect(linkWords({ phase: 'lost', since, attempt: 4, retryAt: 5000 }, 1200)).toBe('Offline since 14:31:02')
})
