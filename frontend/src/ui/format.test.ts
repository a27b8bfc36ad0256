import { expect, it } from 'vitest'
import { formatAge, formatCount, formatLag, formatSpan, formatValue } from './format'

it('values keep the decimals of their channel', () => {
  expect(formatValue(6.2, 2)).toBe('6.20')
  expect(formatValue(48210.46, 1)).toBe('48,210.5')
  expect(formatValue(240, 0)).toBe('240')
})

it('a missing value is a dash, never nought', () => {
  expect(formatValue(null, 1)).toBe('–')
  expect(formatValue(Number.NaN, 1)).toBe('–')
  expect(formatCount(undefined)).toBe('–')
})

it('the minus is a minus, and nothing is less than nought by rounding', () => {
  expect(formatValue(-2.1, 1)).toBe('−2.1')
  expect(formatValue(-0.01, 1)).toBe('0.0')
})

it('exponents come only from ten million on', () => {
  expect(formatValue(9_999_999, 0)).toBe('9,999,999')
  expect(formatValue(12_345_678, 1)).toBe('1.23e+7')
})

it('ages grow coarser', () => {
  expect([400, 41_000, 720_000, 18_720_000, 200_000_000].map(formatAge)).toEqual(['0.4 s', '41 s', '12 min', '5 h 12 min', '2 d 7 h'])
  expect(formatAge(-50)).toBe('0.0 s')
})

it('lateness is told in ms below a second', () => {
  expect([84.4, 6200].map(formatLag)).toEqual(['84 ms', '6.2 s'])
})

it('what was missed is told with its seconds', () => {
  expect([26_000, 72_000, 120_000].map(formatSpan)).toEqual(['26 s', '1 min 12 s', '2 min'])
})
