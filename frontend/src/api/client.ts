/** The only place that talks HTTP. Every answer is either a typed body or an ApiProblem that is thrown. */
import createClient from 'openapi-fetch'
import { ApiProblem, asProblem, problemOf } from './problem'
import type { paths } from './schema'
import type { Channel, Gap, Health, Series, Source, SsoConfig, User } from './types'

const http = createClient<paths>({
  baseUrl: typeof location === 'undefined' ? '' : location.origin,
  // Looked up at each call, so that a test may stand in for the network.
  fetch: (request) => globalThis.fetch(request),
  // The cookie alone must not be enough for a write: another site's form cannot send this header.
  headers: { 'X-WebMACS': '1', Accept: 'application/json' },
})

let onUnauthorized: () => void = () => undefined

/** Names who hears that a request met a session that has ended. */
export function whenUnauthorized(listener: () => void): void {
  onUnauthorized = listener
}

async function read<Body>(answer: Promise<{ data?: Body; error?: unknown; response: Response }>): Promise<Body> {
  const { data, error, response } = await answer.catch((cause: unknown) => {
    throw asProblem(cause)
  })
  if (response.ok) return data as Body
  throw problemOf(response, error)
}

async function authorized<Body>(answer: Promise<{ data?: Body; error?: unknown; response: Response }>): Promise<Body> {
  try {
    return await read(answer)
  } catch (cause) {
    if (cause instanceof ApiProblem && cause.status === 401) onUnauthorized()
    throw cause
  }
}

export async function login(email: string, password: string): Promise<User> {
  return (await read(http.POST('/api/v1/auth/login', { body: { email, password } }))).user
}

/** Whether single sign-on is on, and where a browser begins. */
export function ssoConfig(): Promise<SsoConfig> {
  return read(http.GET('/api/v1/auth/sso/config'))
}

/** Exchanges the code with which the browser came back from the provider. */
export async function ssoExchange(code: string, signal: AbortSignal): Promise<User> {
  return (await read(http.POST('/api/v1/auth/sso/exchange', { body: { code }, signal }))).user
}

/** Replaces the password; every session but the one that this answers ends. */
export async function changePassword(current: string, chosen: string): Promise<User> {
  return (await read(http.PUT('/api/v1/auth/me/password', { body: { current_password: current, new_password: chosen } }))).user
}

/** Begins to link the account to its person at the provider: the address to which the browser goes. Comes back to `next`. */
export async function ssoLink(next: string): Promise<string> {
  return (await read(http.POST('/api/v1/auth/sso/link', { body: { next } }))).authorize_url
}

export async function logout(): Promise<void> {
  await read(http.POST('/api/v1/auth/logout'))
}

/** Who is signed in. A missing session is an ordinary answer here: it throws 401 and tells nobody. */
export function me(): Promise<User> {
  return read(http.GET('/api/v1/auth/me'))
}

/** A one-use ticket for the socket at `path`. */
export async function socketTicket(path: string): Promise<string> {
  return (await authorized(http.POST('/api/v1/auth/socket-ticket', { body: { path } }))).ticket
}

/** The state of the backend. 503 is an answer, not a failure: it says that nothing can be stored. */
export async function health(): Promise<Health['status']> {
  const { data, error, response } = await http.GET('/health').catch((cause: unknown) => {
    throw asProblem(cause)
  })
  if (response.ok && data) return data.status
  if (response.status === 503) return 'unavailable'
  throw problemOf(response, error)
}

const PAGE_SIZE = 200

/** Every channel, page by page, ordered by name. */
export async function channels(): Promise<Channel[]> {
  const all: Channel[] = []
  for (let page = 1; ; page += 1) {
    const answer = await authorized(http.GET('/api/v1/events', { params: { query: { page, page_size: PAGE_SIZE, sort: 'name' } } }))
    all.push(...answer.data)
    if (answer.data.length === 0 || all.length >= answer.total) return all
  }
}

export async function sources(): Promise<Source[]> {
  return (await authorized(http.GET('/api/v1/sources', { params: { query: { page_size: PAGE_SIZE } } }))).data
}

export interface Span {
  /** µs since 1970, both. */
  fromUs: number
  toUs: number
}

const rfc3339 = (us: number): string => new Date(us / 1000).toISOString()

/** Readings of up to 20 channels as buckets of equal width with their extremes; a bucket of one reading is that reading. */
export async function series(ids: readonly string[], span: Span, maxPoints: number): Promise<Series[]> {
  const body = { event_public_ids: [...ids], from: rfc3339(span.fromUs), to: rfc3339(span.toUs), max_points: maxPoints, grid: true }
  return (await authorized(http.POST('/api/v1/datapoints/series', { body }))).series
}

/** The 1,000 that were declared last: more than a chart has columns to mark. */
export async function gaps(span: Span): Promise<Gap[]> {
  const query = { from: rfc3339(span.fromUs), to: rfc3339(span.toUs), limit: 1000 }
  return (await authorized(http.GET('/api/v1/gaps', { params: { query } }))).data
}
