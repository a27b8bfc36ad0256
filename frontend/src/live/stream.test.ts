import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ApiProblem } from '@/api/problem'
import { FakeSocket } from '@/testing/socket'
import { backoffMs, createStream, type Stream, type StreamState } from './stream'

let states: StreamState[]
let ended: number
let ticket: () => Promise<string>
let stream: Stream

const state = (): StreamState => states.at(-1)!
const socket = (): FakeSocket => FakeSocket.opened.at(-1)!
const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0)

beforeEach(() => {
  vi.useFakeTimers()
  FakeSocket.opened = []
  states = []
  ended = 0
  ticket = () => Promise.resolve('t')
  stream = createStream({
    ticket: () => ticket(),
    open: (text) => new FakeSocket(text) as unknown as WebSocket,
    intervalMs: 100,
    onMessage: () => undefined,
    onState: (next) => states.push(next),
    onSessionEnded: () => (ended += 1),
    random: () => 1,
  })
})
afterEach(() => {
  stream.stop()
  vi.useRealTimers()
})

async function live(): Promise<void> {
  stream.start()
  await settle()
  socket().greet()
}

describe('the stream', () => {
  it('subscribes to every channel once it is open, and is live when it is greeted', async () => {
    await live()
    expect(JSON.parse(socket().sent[0]!)).toEqual({ type: 'subscribe', events: 'all', interval_ms: 100 })
    expect(state().phase).toBe('live')
  })

  it('comes back with a new ticket after a break, waiting longer each time', async () => {
    await live()
    let tickets = 0
    ticket = () => {
      tickets += 1
      return Promise.reject(new ApiProblem(0, '', ''))
    }
    socket().break(1012)
    expect(state()).toMatchObject({ phase: 'lost', attempt: 1 })
    await vi.advanceTimersByTimeAsync(400)
    expect(state()).toMatchObject({ phase: 'lost', attempt: 2 })
    await vi.advanceTimersByTimeAsync(799)
    expect(tickets).toBe(1)
    await vi.advanceTimersByTimeAsync(1)
    expect(tickets).toBe(2)
    ticket = () => Promise.resolve('fresh')
    await vi.advanceTimersByTimeAsync(1600)
    expect(socket().address).toBe('fresh')
    socket().greet()
    expect(state().phase).toBe('live')
  })

  it('remembers since when it is lost over all tries', async () => {
    await live()
    const since = Date.now()
    socket().break()
    ticket = () => Promise.reject(new ApiProblem(0, '', ''))
    await vi.advanceTimersByTimeAsync(20_000)
    expect(state()).toMatchObject({ phase: 'lost', since })
  })

  it('takes silence for a break though the socket claims to be open', async () => {
    await live()
    const silent = socket()
    await vi.advanceTimersByTimeAsync(8_000)
    expect(state().phase).toBe('lost')
    expect(silent.closed).toBe(true)
  })

  it('asks for a sign of life every five seconds', async () => {
    await live()
    for (let second = 0; second < 10; second += 1) {
      await vi.advanceTimersByTimeAsync(1000)
      socket().say({ type: 'pong' })
    }
    expect(socket().sent.filter((text) => text === '{"type":"ping"}')).toHaveLength(2)
  })

  it('ends without another try when the session has ended', async () => {
    await live()
    socket().break(4401)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(ended).toBe(1)
    expect(FakeSocket.opened).toHaveLength(1)
  })

  it('ends when the ticket is refused for want of a session', async () => {
    ticket = () => Promise.reject(new ApiProblem(401, '', ''))
    stream.start()
    await settle()
    expect(ended).toBe(1)
    expect(state().phase).toBe('stopped')
  })

  it('tries at once when a person asks for it', async () => {
    await live()
    socket().break()
    stream.retry()
    await settle()
    expect(FakeSocket.opened).toHaveLength(2)
    await vi.advanceTimersByTimeAsync(1000)
    expect(FakeSocket.opened).toHaveLength(2)
  })

  it('opens nothing when it was stopped while its ticket was under way', async () => {
    let give: (text: string) => void = () => undefined
    ticket = () => new Promise((resolve) => (give = resolve))
    stream.start()
    stream.stop()
    give('late')
    await settle()
    expect(FakeSocket.opened).toHaveLength(0)
  })
})

it('waits between half and the whole of a doubling time, at most ten seconds', () => {
  expect([1, 2, 3, 20].map((attempt) => backoffMs(attempt, 0))).toEqual([200, 400, 800, 5000])
  expect([1, 2, 3, 20].map((attempt) => backoffMs(attempt, 1))).toEqual([400, 800, 1600, 10_000])
})
