import { createPinia, setActivePinia } from 'pinia'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { effectScope, ref, type EffectScope } from 'vue'
import { useLive } from '@/live/live.store'
import { fakeBackend, problem } from '@/testing/backend'
import { channel } from '@/testing/channel'
import { FakeSocket } from '@/testing/socket'
import { useTrend, type Trend } from './useTrend'

const START = Date.parse('2026-11-23T12:00:00Z')
const cpu = channel({ name: 'cpu', public_id: 'cpu', expected_interval_ms: 1000 })

let scope: EffectScope
let refuse = false

/** The backend has a reading each second, value = seconds since START. */
function seriesOf(body: unknown): unknown {
  const { event_public_ids: ids, from, to } = body as { event_public_ids: string[]; from: string; to: string }
  const seconds: number[] = []
  for (let t = Math.ceil(Date.parse(from) / 1000) * 1000; t < Date.parse(to) && t <= Date.now(); t += 1000) seconds.push(t)
  const values = seconds.map((t) => (t - START) / 1000)
  const at = seconds.map((t) => t * 1000)
  return { series: ids.map((id) => ({ event_public_id: id, t0: at, t1: at, min: values, max: values, avg: values, last: values, n: values.map(() => 1) })) }
}

beforeEach(() => {
  vi.useFakeTimers()
  vi.setSystemTime(START)
  vi.stubGlobal('WebSocket', FakeSocket)
  FakeSocket.opened = []
  refuse = false
  setActivePinia(createPinia())
  scope = effectScope()
})
afterEach(() => {
  scope.stop()
  useLive().stop()
  vi.unstubAllGlobals()
  vi.useRealTimers()
})

function backend(): ReturnType<typeof fakeBackend> {
  return fakeBackend(({ path, body }) => {
    if (path.endsWith('/socket-ticket')) return { body: { ticket: 't', expires_on: '' } }
    if (refuse) return problem(503, 'The database does not answer.')
    if (path.endsWith('/gaps')) return { body: { data: [] } }
    return { body: seriesOf(body) }
  })
}

const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(20)
const socket = (): FakeSocket => FakeSocket.opened.at(-1)!

async function trendOf(rangeMs = 120_000): Promise<{ trend: Trend; range: { value: number } }> {
  const range = ref(rangeMs)
  const trend = scope.run(() => useTrend(() => [cpu], () => range.value))!
  useLive().start(() => undefined)
  await settle()
  socket().greet(new Date().toISOString())
  return { trend, range }
}

const seconds = (trend: Trend): number[] => {
  const ring = trend.rings.value.get('cpu')!
  return Array.from({ length: ring.length }, (_, i) => Math.round((ring.to(i) - START) / 1000))
}

function say(second: number, more: object = {}): void {
  const value = { value: second, min: second, max: second, n: 1, ...more }
  socket().say({ type: 'datapoints_batch', datapoints: [{ event_public_id: 'cpu', timestamp: new Date(START + second * 1000).toISOString(), ...value }] })
}

async function pass(toSecond: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(START + toSecond * 1000 + 50 - Date.now())
}

const run = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i)

describe('a trend', () => {
  it('begins with the history and goes on with the stream', async () => {
    backend()
    const { trend } = await trendOf()
    expect(seconds(trend)).toEqual(run(-120, 0))
    await pass(1)
    say(1)
    expect(seconds(trend)).toEqual(run(-120, 1))
    expect(trend.state.value).toBe('ready')
  })

  it('fetches what it missed while the connection was lost, so that there is no hole', async () => {
    backend()
    const { trend } = await trendOf()
    await pass(1)
    say(1)
    socket().break()
    await pass(31)
    socket().greet(new Date().toISOString())
    say(31)
    await settle()
    expect(seconds(trend)).toEqual(run(-120, 31))
  })

  it('asks again for what it missed when the first answer after a break was a refusal', async () => {
    backend()
    const { trend } = await trendOf()
    socket().break()
    refuse = true
    await pass(20)
    socket().greet(new Date().toISOString())
    await settle()
    expect(seconds(trend)).toEqual(run(-120, 0))
    refuse = false
    socket().break()
    await pass(40)
    socket().greet(new Date().toISOString())
    await settle()
    expect(seconds(trend)).toEqual(run(-120, 40))
  })

  it('fetches the readings behind one tick that stands for many after a silence', async () => {
    backend()
    const { trend } = await trendOf()
    await pass(20)
    say(20, { min: 1, n: 20 })
    await vi.advanceTimersByTimeAsync(900)
    expect(seconds(trend)).toEqual(run(-120, 20))
  })

  it('does so after a short silence too, when it hides a single reading', async () => {
    backend()
    const { trend } = await trendOf()
    await pass(2)
    say(2, { min: 1, n: 2 })
    await vi.advanceTimersByTimeAsync(900)
    expect(seconds(trend)).toEqual(run(-120, 2))
  })

  it('reads a whole backlog anew when it has been stored, however it came', async () => {
    backend()
    const { trend } = await trendOf()
    for (let second = 5; second <= 60; second += 5) {
      await pass(second)
      socket().say({ type: 'pong' })
    }
    for (let second = 3; second < 60; second += 3) {
      say(second, { min: second - 2, n: 3 }) // ticks of three readings each, a minute late and later less
      await vi.advanceTimersByTimeAsync(10)
    }
    await pass(61)
    say(61, { min: 60, n: 2 })
    await vi.advanceTimersByTimeAsync(900)
    expect(seconds(trend)).toEqual(run(-120, 61))
    const ring = trend.rings.value.get('cpu')!
    expect(Array.from({ length: ring.length }, (_, i) => ring.n(i)).every((n) => n === 1)).toBe(true)
    await vi.advanceTimersByTimeAsync(2000)
    expect(trend.pendingFrom.value).toBeNull()
  })

  it('has no reading twice that came by the stream while the history was under way', async () => {
    let answer: () => void = () => undefined
    fakeBackend(async ({ path, body }) => {
      if (path.endsWith('/socket-ticket')) return { body: { ticket: 't', expires_on: '' } }
      if (path.endsWith('/gaps')) return { body: { data: [] } }
      const taken = seriesOf(body)
      await new Promise<void>((resolve) => (answer = resolve))
      return { body: taken }
    })
    const { trend } = await trendOf(600_000 * 60) // buckets of a minute: stream and history share the newest
    say(0)
    await pass(1)
    say(1)
    answer()
    for (let second = 2; second <= 130; second += 1) {
      await pass(second)
      say(second)
      answer()
    }
    const ring = trend.rings.value.get('cpu')!
    const readings = Array.from({ length: ring.length }, (_, i) => (ring.to(i) > START ? ring.n(i) : 0)).reduce((sum, n) => sum + n, 0)
    expect(readings).toBe(130)
  })

  it('keeps previews apart from what is stored', async () => {
    backend()
    const { trend } = await trendOf()
    await pass(1)
    const preview = { event_public_id: 'cpu', timestamp: new Date(START + 1000).toISOString(), value: 9 }
    socket().say({ type: 'datapoints_batch', datapoints: [], previews: [preview, { ...preview, event_public_id: 'another' }] })
    expect(seconds(trend)).toEqual(run(-120, 0))
    expect([...trend.previews.value.keys()]).toEqual(['cpu'])
    expect(trend.previews.value.get('cpu')!.newest).toBe(START + 1000)
  })

  it('keeps the extremes of a tick', async () => {
    backend()
    const { trend } = await trendOf()
    await pass(1)
    say(1, { min: -50, max: 99, n: 100 })
    const ring = trend.rings.value.get('cpu')!
    const last = ring.length - 1
    expect([ring.min(last), ring.max(last)]).toEqual([-50, 99])
  })

  it('keeps its old curve when another range cannot be read, and says why', async () => {
    backend()
    const { trend, range } = await trendOf()
    refuse = true
    range.value = 600_000
    await settle()
    expect(trend.state.value).toBe('failed')
    expect(trend.problem.value?.detail).toBe('The database does not answer.')
    expect(seconds(trend)).toEqual(run(-120, 0))
    refuse = false
    trend.reload()
    await settle()
    expect(trend.state.value).toBe('ready')
    expect(seconds(trend)).toEqual(run(-600, 0))
  })
})
