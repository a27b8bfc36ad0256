/** Numbers, times and ages as people read them. One locale: the words of the application are English. */
const LOCALE = 'en-GB'
/** Narrow, does not break: between a number and its unit. */
export const THIN = ' '
const MISSING = '–'
const EXPONENT_FROM = 1e7

const fixed = new Map<number, Intl.NumberFormat>()

function fixedFormat(decimals: number): Intl.NumberFormat {
  let format = fixed.get(decimals)
  if (!format) {
    format = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
    fixed.set(decimals, format)
  }
  return format
}

const trueMinus = (text: string): string => text.replace(/^-/, '−')

/** A value with exactly `decimals` decimals (6.20 stays 6.20), a true minus, and an exponent only above 10⁷. No value is a dash, never 0. */
export function formatValue(value: number | null | undefined, decimals: number | null | undefined): string {
  if (value == null || Number.isNaN(value)) return MISSING
  const places = decimals ?? 2
  if (Math.abs(value) >= EXPONENT_FROM) return trueMinus(value.toExponential(Math.max(places, 2)))
  const text = fixedFormat(places).format(value)
  return /^-[0.,]*$/.test(text) ? text.slice(1) : trueMinus(text)
}

/** A whole number with its groups: 48,210. */
export function formatCount(value: number | null | undefined): string {
  return value == null || Number.isNaN(value) ? MISSING : trueMinus(fixedFormat(0).format(Math.round(value)))
}

/** A length of time: 0.4 s, 41 s, 12 min, 5 h 12 min, 3 d 4 h. */
export function formatAge(ms: number | null | undefined): string {
  if (ms == null || Number.isNaN(ms)) return MISSING
  const s = Math.max(0, ms) / 1000
  if (s < 9.95) return `${s.toFixed(1)} s`
  if (s < 90) return `${Math.round(s)} s`
  const min = Math.floor(s / 60)
  if (min < 60) return `${min} min`
  const h = Math.floor(min / 60)
  if (h < 48) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`
  return h % 24 ? `${Math.floor(h / 24)} d ${h % 24} h` : `${Math.floor(h / 24)} d`
}

/** A lateness: 84 ms, 6.2 s, 3 min. */
export function formatLag(ms: number | null | undefined): string {
  if (ms == null || Number.isNaN(ms)) return MISSING
  return ms < 1000 ? `${Math.round(Math.max(0, ms))} ms` : formatAge(ms)
}

/** A length with its second unit, for what was missed: 41 s, 1 min 12 s. */
export function formatSpan(ms: number): string {
  const s = Math.round(ms / 1000)
  if (s < 60) return `${s} s`
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`
  return formatAge(ms)
}

const clock = new Intl.DateTimeFormat(LOCALE, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })
const hourMinute = new Intl.DateTimeFormat(LOCALE, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const day = new Intl.DateTimeFormat(LOCALE, { weekday: 'short', day: 'numeric', month: 'short' })
const dayMonth = new Intl.DateTimeFormat(LOCALE, { day: 'numeric', month: 'short' })
const zoneShort = new Intl.DateTimeFormat(LOCALE, { timeZoneName: 'short' })
const utc = new Intl.DateTimeFormat(LOCALE, {
  hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23', timeZone: 'UTC', day: 'numeric', month: 'short',
})

export const formatClock = (ms: number): string => clock.format(ms)
export const formatHourMinute = (ms: number): string => hourMinute.format(ms)
export const formatDay = (ms: number): string => day.format(ms).replace(',', '')
export const formatUtc = (ms: number): string => `${utc.format(ms)} UTC`

/** 14:32:07.481: at the cursor a millisecond counts. */
export const formatClockMs = (ms: number): string => `${clock.format(ms)}.${String(Math.floor(((ms % 1000) + 1000) % 1000)).padStart(3, '0')}`

/** 23 Nov 14:32:07. */
export const formatDayClock = (ms: number): string => `${dayMonth.format(ms)} ${clock.format(ms)}`

/** The zone's short name at that moment, for instance GMT+1. */
export function zoneName(ms: number): string {
  return zoneShort.formatToParts(ms).find((part) => part.type === 'timeZoneName')?.value ?? 'UTC'
}

/** The zone's full name, for instance Europe/Berlin. */
export const zoneId = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone
