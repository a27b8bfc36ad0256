import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'

type Theme = Record<string, string>

const css = readFileSync('src/theme/tokens.css', 'utf8')

function tokens(name: 'dark' | 'light'): Theme {
  const block = new RegExp(`html\\.${name} \\{([^}]*)\\}`).exec(css)![1]!
  return Object.fromEntries([...block.matchAll(/--([\w-]+):\s*(#[0-9a-f]{6})/gi)].map((match) => [match[1]!, match[2]!]))
}

/** Relative luminance after WCAG 2. */
function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(hex.slice(at, at + 2), 16) / 255
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
  })
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!
}

function contrast(a: string, b: string): number {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y)
  return (high! + 0.05) / (low! + 0.05)
}

const TEXT: [string, string][] = [
  ['value', 'surface'], ['value', 'canvas'], ['value', 'raised'], ['text', 'surface'], ['text', 'canvas'], ['text', 'overlay'], ['text', 'raised'],
  ['text', 'well'], ['text-2', 'surface'], ['text-2', 'canvas'], ['text-2', 'overlay'], ['text-2', 'raised'], ['text-2', 'accent-soft'], ['text-3', 'surface'],
  ['text-3', 'canvas'], ['text-3', 'overlay'], ['text-3', 'well'], ['text-3', 'raised'], ['axis', 'well'], ['axis', 'gap'], ['accent', 'surface'],
  ['accent-on', 'accent'], ['text', 'accent-soft'], ['value', 'accent-soft'], ['canvas', 'value'],
  ...[1, 2, 3, 4].flatMap((n): [string, string][] => [[`a${n}`, 'surface'], [`a${n}`, `a${n}-tint`], [`a${n}-on`, `a${n}-fill`]]),
]
const LINES: [string, string][] = [
  ['line-ctl', 'surface'], ['line-ctl', 'well'], ['focus', 'surface'], ['focus', 'canvas'], ['ind-pointer', 'ind-normal'], ['ind-pointer', 'ind-track'],
  ['text-3', 'ind-track'], ...Array.from({ length: 8 }, (_, i): [string, string] => [`s-${i + 1}`, 'well']),
]

describe.each(['dark', 'light'] as const)('the %s theme', (name) => {
  const theme = tokens(name)

  it.each(TEXT)('lets %s be read on %s', (ink, paper) => {
    expect(contrast(theme[ink]!, theme[paper]!)).toBeGreaterThanOrEqual(4.5)
  })

  it.each(LINES)('lets %s be seen on %s', (ink, paper) => {
    expect(contrast(theme[ink]!, theme[paper]!)).toBeGreaterThanOrEqual(3)
  })
})

it('both themes define the same tokens', () => {
  expect(Object.keys(tokens('dark')).sort()).toEqual(Object.keys(tokens('light')).sort())
})
