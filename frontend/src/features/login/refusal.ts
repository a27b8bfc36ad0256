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

/** What is wrong with a new password, or with the one it is to replace. */
export function choiceRefusal(problem: ApiProblem): string {
  const [wrong] = problem.fields
  if (!wrong) return problem.detail
  return wrong.msg.startsWith('Expected `str` of length') ? 'A password has 12 to 256 characters.' : wrong.msg
}

/** Why single sign-on sent one back here: `/login?sso=<reason>`. */
const SSO_REFUSALS: Readonly<Record<string, string>> = {
  admin: 'Administrators do not come in by email alone. Sign in with your password; you may link your account with it.',
  again: 'Your account was just being made. Try once more.',
  denied: 'The sign-on was not approved. Begin again, or use your password.',
  disabled: 'Your account is disabled. Ask an administrator.',
  email: 'The provider has not verified your email, so WebMACS cannot tell who you are. Ask whoever runs the provider.',
  expired: 'This sign-on took longer than 10 min, was used already, or began in another window. Begin again.',
  groups: 'None of your groups may use WebMACS. Ask an administrator.',
  provider: 'The sign-on provider does not answer as it should. Try again, or use your password.',
  taken: 'An account here has your email, but is not yours at the provider. Ask an administrator.',
  unknown: 'You have no account here. Ask an administrator to make one.',
  untrusted: 'The answer of the sign-on provider could not be trusted. Begin again; if it stays so, tell an administrator.',
}

/** What came of linking one's account: `/sso-callback?sso_link=<outcome>`; null when it is linked. */
export function linkRefusal(outcome: unknown): string | null {
  if (outcome === 'linked') return null
  return outcome === 'taken' ? 'Your account, or you at the provider, are linked to another one already.' : ssoRefusal(outcome)
}

/** The sentence for a reason in the address; null when there is none. */
export function ssoRefusal(reason: unknown): string | null {
  if (typeof reason !== 'string') return null
  return Object.hasOwn(SSO_REFUSALS, reason) ? SSO_REFUSALS[reason]! : 'Single sign-on did not work. Begin again.'
}
