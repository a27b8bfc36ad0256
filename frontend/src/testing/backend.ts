import { vi } from 'vitest'

type Answer = { status?: number; body?: unknown }
type Handler = (request: { path: string; method: string; body: unknown; headers: Headers }) => Answer | Promise<Answer>

/** Stands in for the backend's HTTP side: `handler` answers what the client asks, `asked` is what it has asked so far. */
export function fakeBackend(handler: Handler): { asked: { path: string; method: string; body: unknown; headers: Headers }[] } {
  const asked: { path: string; method: string; body: unknown; headers: Headers }[] = []
  vi.stubGlobal('fetch', async (request: Request) => {
    const text = await request.text()
    const one = { path: new URL(request.url).pathname, method: request.method, body: text ? (JSON.parse(text) as unknown) : null, headers: request.headers }
    asked.push(one)
    const { status = 200, body } = await handler(one)
    return new Response(body === undefined ? null : JSON.stringify(body), {
      status,
      headers: { 'Content-Type': status < 400 ? 'application/json' : 'application/problem+json' },
    })
  })
  return { asked }
}

export const problem = (status: number, detail: string, request_id = 'r-1'): Answer => ({
  status,
  body: { type: '/problems/test', title: 'Test', status, detail, request_id },
})
