/** Draws curves into a uPlot canvas from their rings: envelope, line, gaps, end labels. All sizes in CSS px, scaled by `ratio`. */
import type uPlot from 'uplot'
import { formatSpan, formatValue } from '@/ui/format'
import { colourOf, dashOf, firstPreview, gapAfterMs, newestOf, spread, type Curve, type Stretch } from './bands'

/** The tokens a canvas needs; it cannot read CSS variables by itself. */
export interface Paints {
  series: string[]
  text: string
  axis: string
  line: string
  grid: string
  hatch: string
  gap: string
  surface: string
}

const FONT = "11px 'Inter Variable', system-ui, sans-serif"
const LABEL_FONT = "550 11px 'Inter Variable', system-ui, sans-serif"
const PREVIEW_FONT = `italic ${LABEL_FONT}`
export const LABEL_GAP = 14
const KEY = 14
const DOT_FROM_PX = 6
const SIMULATED_STRIP = 5
const PREVIEW_DASH = [2, 3]
const PREVIEW_DOT = 3

export function readPaints(element: Element): Paints {
  const style = getComputedStyle(element)
  const token = (name: string): string => style.getPropertyValue(name).trim()
  return {
    series: Array.from({ length: 8 }, (_, i) => token(`--s-${i + 1}`)),
    text: token('--text'),
    axis: token('--axis'),
    line: token('--text-3'),
    grid: token('--grid'),
    hatch: token('--hatch'),
    gap: token('--gap'),
    surface: token('--well'),
  }
}

export const font = FONT
const scaled = (text: string): string => text.replace('11px', `${11 * devicePixelRatio}px`)

interface Frame {
  plot: uPlot
  paints: Paints
  from: number
  to: number
  now: number
}

function hatched(context: CanvasRenderingContext2D, paints: Paints, x: number, y: number, width: number, height: number, ratio: number): void {
  context.save()
  context.beginPath()
  context.rect(x, y, width, height)
  context.clip()
  context.fillStyle = paints.gap
  context.fillRect(x, y, width, height)
  context.strokeStyle = paints.hatch
  context.lineWidth = ratio
  context.beginPath()
  const step = 6 * ratio
  for (let start = x - height - ((x - height) % step); start < x + width; start += step) {
    context.moveTo(start, y + height)
    context.lineTo(start + height, y)
  }
  context.stroke()
  context.restore()
}

/** Where nobody has readings: hatched, with its length and, where a source has declared it, the cause. */
export function paintSilence(frame: Frame, stretches: readonly Stretch[], causeOf: (stretch: Stretch) => string | null): void {
  const { plot, paints } = frame
  const { ctx: context, bbox } = plot
  const ratio = devicePixelRatio
  for (const stretch of stretches) {
    const left = Math.max(bbox.left, plot.valToPos(stretch.from, 'x', true))
    const right = Math.min(bbox.left + bbox.width, plot.valToPos(stretch.to, 'x', true))
    if (right - left < 1) continue
    hatched(context, paints, left, bbox.top, right - left, bbox.height, ratio)
    write(frame, [`no readings ${formatSpan(stretch.to - stretch.from)}`, causeOf(stretch)].filter(Boolean).join(', '), (left + right) / 2, right - left)
  }
}

/** A note at the top of a stretch, where there is room for it. */
function write(frame: Frame, text: string, middle: number, least: number): void {
  const { plot, paints } = frame
  const { ctx: context, bbox } = plot
  const ratio = devicePixelRatio
  context.save() // uPlot remembers what it has set
  context.font = scaled(FONT)
  const width = context.measureText(text).width
  if (width + 12 * ratio <= least) {
    context.fillStyle = paints.gap
    context.fillRect(middle - width / 2 - 4 * ratio, bbox.top + 5 * ratio, width + 8 * ratio, 16 * ratio)
    context.fillStyle = paints.axis
    context.textAlign = 'center'
    context.textBaseline = 'middle'
    context.fillText(text, middle, bbox.top + 13 * ratio)
  }
  context.restore()
}

/** Behind the newest stored reading of those curves that go on without being stored: another ground, its edge and the word. */
export function paintUnstored(frame: Frame, curves: readonly Curve[]): void {
  const { plot, paints, to } = frame
  const { ctx: context, bbox } = plot
  const ratio = devicePixelRatio
  const begins = curves.flatMap((curve) => {
    const first = firstPreview(curve)
    if (!curve.previews || first >= curve.previews.length) return []
    return [Number.isNaN(curve.ring.newest) ? curve.previews.from(first) : curve.ring.newest]
  })
  if (begins.length === 0) return
  const edge = bbox.left + bbox.width
  const left = Math.max(bbox.left, plot.valToPos(Math.min(...begins), 'x', true))
  const right = Math.min(edge, plot.valToPos(to, 'x', true))
  if (right - left < 1) return
  context.save()
  context.fillStyle = paints.gap
  context.fillRect(left, bbox.top, right - left, bbox.height)
  context.strokeStyle = paints.line
  context.lineWidth = ratio
  context.setLineDash([ratio, 3 * ratio])
  context.beginPath()
  context.moveTo(left, bbox.top)
  context.lineTo(left, bbox.top + bbox.height)
  context.stroke()
  context.restore()
  write(frame, 'not stored yet', (left + right) / 2, right - left)
}

/** What was painted of a curve: its points, the breaks in its line, the longest step between two points and the newest, ms. */
export interface Painted {
  points: number
  breaks: number
  widest: number
  newest: number
  /** Points of readings that are not stored. */
  previews: number
}

/** One curve: the band from smallest to largest, the line through the last of each bucket, a break where readings are missing. */
export function paintCurve(frame: Frame, curve: Curve, shared: boolean): Painted {
  const { plot, paints, from, to, now } = frame
  const { ctx: context, bbox } = plot
  const { ring, channel } = curve
  const ratio = devicePixelRatio
  const colour = paints.series[colourOf(curve.slot) - 1]!
  const reach = gapAfterMs(channel)
  const x = (time: number): number => plot.valToPos(time, 'x', true)
  const y = (value: number): number => plot.valToPos(value, 'y', true)
  const first = Math.max(0, ring.indexAt(from) - 1)

  context.save()
  context.beginPath()
  context.rect(bbox.left, bbox.top, bbox.width, bbox.height)
  context.clip()

  const band = new Path2D()
  const line = new Path2D()
  const dots = new Path2D()
  let runStart = first
  let end = first
  let breaks = 0
  let widest = 0
  const closeRun = (until: number): void => {
    if (until <= runStart) return
    for (let i = runStart; i < until; i += 1) {
      if (i === runStart) {
        band.moveTo(x(ring.from(i)), y(ring.max(i)))
      }
      band.lineTo(x(ring.to(i)), y(ring.max(i)))
    }
    for (let i = until - 1; i >= runStart; i -= 1) {
      band.lineTo(x(ring.to(i)), y(ring.min(i)))
      if (i === runStart) band.lineTo(x(ring.from(i)), y(ring.min(i)))
    }
    band.closePath()
  }
  for (let i = first; i < ring.length && ring.from(i) <= to; i += 1) {
    const px = x(ring.to(i))
    const py = y(ring.last(i))
    const step = i > first ? ring.from(i) - ring.to(i - 1) : 0
    const broken = step > reach
    widest = Math.max(widest, step)
    if (broken) {
      breaks += 1
      closeRun(i)
      runStart = i
    }
    if (i === first || broken) line.moveTo(px, py)
    else line.lineTo(px, py)
    // Few readings are shown as what they are; a single one between two gaps has no line at all.
    const lonely = (i === first || broken) && (i + 1 >= ring.length || ring.from(i + 1) - ring.to(i) > reach)
    const apart = i > first ? px - x(ring.to(i - 1)) : 0
    if (lonely || (apart >= DOT_FROM_PX * ratio && ring.n(i) === 1)) {
      dots.moveTo(px + 1.75 * ratio, py)
      dots.arc(px, py, 1.75 * ratio, 0, Math.PI * 2)
    }
    end = i + 1
  }
  closeRun(end)

  context.globalAlpha = 0.24
  context.fillStyle = colour
  context.fill(band)
  // A band thinner than the line is hidden by it; a spike of one reading must not be.
  context.globalAlpha = 0.5
  context.strokeStyle = colour
  context.lineWidth = 0.75 * ratio
  context.stroke(band)
  context.globalAlpha = 1
  context.lineWidth = 1.5 * ratio
  context.lineJoin = 'round'
  context.setLineDash(shared ? dashOf(curve.slot).map((length) => length * ratio) : [])
  context.stroke(line)
  context.setLineDash([])
  context.fillStyle = colour
  context.fill(dots)

  const previews = paintPreviews(frame, curve, x, y)
  const newest = ring.newest
  if (previews === 0 && end > first && end === ring.length && now - newest > reach && newest < to) {
    const left = x(newest)
    const right = x(Math.min(now, to))
    context.strokeStyle = paints.line
    context.lineWidth = ratio
    context.setLineDash([2 * ratio, 2 * ratio])
    context.strokeRect(left, y(ring.last(end - 1)) - 9 * ratio, right - left, 18 * ratio)
  }
  context.restore()
  return { points: end - first, breaks, widest, newest: end > first ? ring.to(end - 1) : 0, previews }
}

/** The part of a curve that is not stored: dotted, from the newest stored reading on, with a hollow end. Gives the points. */
function paintPreviews(frame: Frame, curve: Curve, x: (time: number) => number, y: (value: number) => number): number {
  const { plot, paints, from, to } = frame
  const { previews, ring, channel, slot } = curve
  if (!previews) return 0
  const context = plot.ctx
  const ratio = devicePixelRatio
  const reach = gapAfterMs(channel)
  const stored = ring.length - 1
  let before = stored >= 0 ? ring.to(stored) : Number.NaN
  let points = 0
  const line = new Path2D()
  if (stored >= 0) line.moveTo(x(before), y(ring.last(stored)))
  let end: [number, number] | null = null
  for (let i = firstPreview(curve); i < previews.length && previews.from(i) <= to; i += 1) {
    const point: [number, number] = [x(previews.to(i)), y(previews.last(i))]
    if (previews.from(i) - before <= reach) line.lineTo(...point)
    else line.moveTo(...point)
    before = previews.to(i)
    if (before < from) continue
    end = point
    points += 1
  }
  if (!end) return 0
  context.strokeStyle = paints.series[colourOf(slot) - 1]!
  context.lineWidth = 1.5 * ratio
  context.setLineDash(PREVIEW_DASH.map((length) => length * ratio))
  context.stroke(line)
  context.setLineDash([])
  const dot = new Path2D()
  dot.arc(end[0], end[1], PREVIEW_DOT * ratio, 0, Math.PI * 2)
  context.fillStyle = paints.surface
  context.fill(dot)
  context.stroke(dot)
  return points
}

/** A strip at the left edge: at least one curve here was never measured. */
export function paintSimulated(frame: Frame): void {
  const { plot, paints } = frame
  const ratio = devicePixelRatio
  hatched(plot.ctx, paints, plot.bbox.left, plot.bbox.top, SIMULATED_STRIP * ratio, plot.bbox.height, ratio)
}

/** Names and newest values at the right end, moved apart and joined to their curves by a hairline. */
export function paintLabels(frame: Frame, curves: readonly Curve[], width: number): void {
  const { plot, paints, to } = frame
  const { ctx: context, bbox } = plot
  const ratio = devicePixelRatio
  const rows = curves
    .map((curve) => {
      const newest = newestOf(curve)
      if (newest?.preview && newest.time <= to) return { curve, ...newest }
      const index = Math.min(curve.ring.indexAt(to), curve.ring.length - 1)
      return index < 0 ? null : { curve, time: curve.ring.to(index), value: curve.ring.last(index), preview: false }
    })
    .filter((row) => row !== null)
    .map((row) => ({ ...row, at: plot.valToPos(row.value, 'y', true) }))
    .sort((a, b) => a.at - b.at)
  const heights = spread(rows.map((row) => row.at), LABEL_GAP * ratio, bbox.top + 5 * ratio, bbox.top + bbox.height - 3 * ratio)
  const edge = bbox.left + bbox.width
  const left = edge + 8 * ratio
  const right = edge + (width - 10) * ratio
  context.save()
  context.font = scaled(LABEL_FONT)
  context.textBaseline = 'middle'
  for (const [i, row] of rows.entries()) {
    const y = heights[i]!
    context.strokeStyle = paints.grid
    context.lineWidth = ratio
    context.beginPath()
    context.moveTo(Math.min(edge, plot.valToPos(row.time, 'x', true)), row.at)
    context.lineTo(left, y)
    context.stroke()
    context.strokeStyle = paints.series[colourOf(row.curve.slot) - 1]!
    context.lineWidth = 2 * ratio
    context.setLineDash(dashOf(row.curve.slot).map((length) => length * ratio))
    context.beginPath()
    context.moveTo(left, y)
    context.lineTo(left + KEY * ratio, y)
    context.stroke()
    context.setLineDash([])
    context.fillStyle = paints.text
    const value = formatValue(row.value, row.curve.channel.decimals)
    context.textAlign = 'right'
    context.font = scaled(row.preview ? PREVIEW_FONT : LABEL_FONT)
    context.fillText(value, right, y)
    context.font = scaled(LABEL_FONT)
    context.textAlign = 'left'
    const room = right - context.measureText(value).width - 8 * ratio - (left + (KEY + 5) * ratio)
    context.fillText(cut(context, row.curve.channel.name, room), left + (KEY + 5) * ratio, y)
  }
  context.restore()
}

/** A name shortened in its middle until it fits: both ends tell channels apart. */
function cut(context: CanvasRenderingContext2D, name: string, room: number): string {
  if (context.measureText(name).width <= room) return name
  for (let keep = name.length - 2; keep > 3; keep -= 1) {
    const short = `${name.slice(0, Math.ceil(keep / 2)).trimEnd()}…${name.slice(name.length - Math.floor(keep / 2)).trimStart()}`
    if (context.measureText(short).width <= room) return short
  }
  return name.slice(0, 3)
}
