import { expect, it } from 'vitest'
import { doubtsOf } from './honesty'

const calm = { storing: true, previewed: 0, lostSince: null, sources: [], silences: { count: 0, ms: 0 }, readingsPerPoint: 1 }
const marks = (change: Partial<Parameters<typeof doubtsOf>[0]>): string[] => doubtsOf({ ...calm, ...change }).map(({ mark }) => mark)

it('a chart that shows everything has no doubt', () => {
  expect(marks({})).toEqual([])
})

it('the worst doubt comes first', () => {
  const late = { public_id: 's', name: 'rig-b', state: 'live' as const, lag_ms: 6200 }
  expect(marks({ readingsPerPoint: 59.7, silences: { count: 1, ms: 4000 }, sources: [late], storing: false })).toEqual([
    'not stored', 'rig-b 6.2 s late', '1 gap', '60 readings : 1, min and max kept',
  ])
})

it('what is shown before it is stored is a doubt, also when storing goes on and a backlog comes first', () => {
  expect(marks({ previewed: 1 })).toEqual(['not stored'])
  expect(doubtsOf({ ...calm, storing: false, previewed: 1 })[0]!.sentence).toMatch(/cannot store.*dotted/)
  expect(doubtsOf({ ...calm, storing: false })[0]!.sentence).toMatch(/cannot store.*end at the last stored reading/)
  expect(doubtsOf({ ...calm, previewed: 1 })[0]!.sentence).toMatch(/comes first.*dotted/)
})

it('a source that is away is not late', () => {
  expect(marks({ sources: [{ public_id: 's', name: 'rig-b', state: 'offline', lag_ms: 99_000 }] })).toEqual([])
})
