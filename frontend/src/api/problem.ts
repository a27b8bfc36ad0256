/** What went wrong, in the words of the API (RFC 9457), or in ours where there was no answer at all. */
export class ApiProblem extends Error {
  constructor(
    /** The HTTP status, 0 when nothing answered. */
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly requestId: string | null = null,
    readonly fields: readonly { loc: readonly (string | number)[]; msg: string }[] = [],
  ) {
    super(detail)
    this.name = 'ApiProblem'
  }
}

const UNREACHABLE = 'The backend does not answer. Check that WebMACS is running and that this machine reaches it.'

/** Any thrown value as a problem. */
export function asProblem(cause: unknown): ApiProblem {
  if (cause instanceof ApiProblem) return cause
  return new ApiProblem(0, 'No answer', UNREACHABLE)
}

/** The problem in an answer's body; a body that is none (a proxy's page) still gives a sentence. */
export function problemOf(response: Response, body: unknown): ApiProblem {
  const fields = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>
  const requestId = typeof fields.request_id === 'string' ? fields.request_id : response.headers.get('X-Request-ID')
  const title = typeof fields.title === 'string' ? fields.title : `Status ${response.status}`
  const detail = typeof fields.detail === 'string' && fields.detail ? fields.detail : `The backend answered ${response.status} without a reason.`
  const errors = Array.isArray(fields.errors) ? (fields.errors as ApiProblem['fields']) : []
  return new ApiProblem(response.status, title, detail, requestId, errors)
}
