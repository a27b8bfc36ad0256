/** What a chart does not show, worst first. The mark names two; the panel behind it explains all. */
import type { SourceStatus } from '@/live/messages'
import { formatCount, formatLag, formatSpan } from '@/ui/format'

export interface Doubt {
  mark: string
  sentence: string
}

const LATE_MS = 1_000
export const EVERYTHING = 'every reading shown'

export function doubtsOf(facts: {
  storing: boolean
  /** Curves whose end is not stored yet. */
  previewed: number
  lostSince: number | null
  sources: readonly SourceStatus[]
  /** Missing stretches: their count and total length in ms. */
  silences: { count: number; ms: number }
  readingsPerPoint: number
}): Doubt[] {
  const doubts: Doubt[] = []
  if (facts.lostSince !== null) {
    doubts.push({ mark: 'not live', sentence: 'The connection is lost. What was sampled meanwhile is fetched when it is back.' })
  }
  if (!facts.storing || facts.previewed) {
    const why = facts.storing ? 'What was kept while nothing could be stored comes first.' : 'The backend cannot store at the moment.'
    const what = facts.previewed
      ? 'The dotted end of a curve is live but not stored, a few readings a second of all that are taken. The whole follows.'
      : 'The curves end at the last stored reading.'
    doubts.push({ mark: 'not stored', sentence: `${why} ${what}` })
  }
  for (const source of facts.sources) {
    if (source.state === 'live' && (source.lag_ms ?? 0) >= LATE_MS) {
      const lag = formatLag(source.lag_ms)
      doubts.push({ mark: `${source.name} ${lag} late`, sentence: `${source.name} is ${lag} late. Its curves end before the right edge and catch up.` })
    }
  }
  if (facts.silences.count) {
    const { count, ms } = facts.silences
    doubts.push({
      mark: `${count} ${count === 1 ? 'gap' : 'gaps'}`,
      sentence: `${count} ${count === 1 ? 'stretch has' : 'stretches have'} no readings at all, ${formatSpan(ms)} together. They are hatched, nothing is drawn across them.`,
    })
  }
  const ratio = Math.round(facts.readingsPerPoint)
  if (ratio > 1) {
    doubts.push({
      mark: `${formatCount(ratio)} readings : 1, min and max kept`,
      sentence: `About ${formatCount(ratio)} readings stand behind one drawn point. The line goes through the last of them, the band shows the smallest and the largest: no spike is hidden.`,
    })
  }
  return doubts
}
