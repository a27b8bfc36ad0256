/** What the login says when it was refused: one sentence, what to do. */
import type { ApiProblem } from '@/api/problem'

export function refusal(problem: ApiProblem): string {
  switch (problem.status) {
    case 401:
      return 'Email or password is not right.'
    case 429:
      return problem.detail
    case 422:
      return 'Enter your email and your password.'
    default:
      return problem.detail
  }
}
