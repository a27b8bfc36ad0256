/** The shapes of the API, taken from the generated document by path: the names of its components may change, the paths may not. */
import type { paths } from './schema'

type Answer<Operation> = Operation extends { responses: { 200: { content: { 'application/json': infer Body } } } } ? Body : never

export type User = Answer<paths['/api/v1/auth/me']['get']>
export type SsoConfig = Answer<paths['/api/v1/auth/sso/config']['get']>
export type Channel = Answer<paths['/api/v1/events']['get']>['data'][number]
export type Source = Answer<paths['/api/v1/sources']['get']>['data'][number]
export type Series = Answer<paths['/api/v1/datapoints/series']['post']>['series'][number]
export type Gap = Answer<paths['/api/v1/gaps']['get']>['data'][number]
export type Health = Answer<paths['/health']['get']>
