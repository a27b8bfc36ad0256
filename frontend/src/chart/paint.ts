/** Draws curves into a uPlot canvas from their rings: envelope, line, gaps, end labels. All sizes in CSS px, scaled by `ratio`. */
import type uPlot from 'uplot'
import { formatSpan, formatValue } from '@/ui/format'
import { colourOf, dashOf, gapAfterMs, spread, type Curve, type Stretch } from './bands'

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
export const LABEL_GAP = 14
const KEY = 14
const DOT_FROM_PX = 6
const SIMULATED_STRIP = 5

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
    const words = [`no readings ${formatSpan(stretch.to - stretch.from)}`, causeOf(stretch)].filter(Boolean).join(', ')
    context.font = FONT.replace('11px', `${11 * ratio}px`)
    const width = context.measureText(words).width
    if (width + 12 * ratio > right - left) continue
    context.fillStyle = paints.gap
    context.fillRect((left + right) / 2 - width / 2 - 4 * ratio, bbox.top + 5 * ratio, width + 8 * ratio, 16 * ratio)
    context.fillStyle = paints.axis
    context.textAlign = 'center'
    context.textBaseline = 'middle'
    context.fillText(words, (left + right) / 2, bbox.top + 13 * ratio)
  }
}

/** What was painted of a curve: its points, the breaks in its line, the longest step between two points and the newest, ms. */
export interface Painted {
  points: number
  breaks: number
  widest: number
  newest: number
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

  const newest = ring.newest
  if (end > first && end === ring.length && now - newest > reach && newest < to) {
    const left = x(newest)
    const right = x(Math.min(now, to))
    context.strokeStyle = paints.line
    context.lineWidth = ratio
    context.setLineDash([2 * ratio, 2 * ratio])
    context.strokeRect(left, y(ring.last(end - 1)) - 9 * ratio, right - left, 18 * ratio)
  }
  context.restore()
  return { points: end - first, breaks, widest, newest: end > first ? ring.to(end - 1) : 0 }
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
      const index = Math.min(curve.ring.indexAt(to), curve.ring.length - 1)
      return index < 0 ? null : { curve, time: curve.ring.to(index), value: curve.ring.last(index) }
    })
    .filter((row) => row !== null)
    .map((row) => ({ ...row, at: plot.valToPos(row.value, 'y', true) }))
    .sort((a, b) => a.at - b.at)
  const heights = spread(rows.map((row) => row.at), LABEL_GAP * ratio, bbox.top + 5 * ratio, bbox.top + bbox.height - 3 * ratio)
  const edge = bbox.left + bbox.width
  const left = edge + 8 * ratio
  const right = edge + (width - 10) * ratio
  context.save()
  context.font = LABEL_FONT.replace('11px', `${11 * ratio}px`)
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
    context.fillText(value, right, y)
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
